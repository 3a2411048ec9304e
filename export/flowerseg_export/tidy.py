"""What torch's exporter leaves in a graph that no runtime needs and no reader understands."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

_BORDER = {"images", "foreground"}


def tidy(model: ir.Model) -> None:
    """Make a graph of fixed shapes and readable names of what the exporter gives, in place.

    Sizes are constants instead of chains of Shape and Concat; a mean over a whole map is a
    GlobalAveragePool; nodes and values are called after the torch module that they come from.
    What the exporter notes about the machine, stack traces with paths, goes.
    """
    for node in list(model.graph):
        if node.op_type == "Resize":
            _resize_to_constant(model, node)
        elif node.op_type == "ReduceMean":
            _pool_whole_map(model, node)
    RemoveUnusedNodesPass()(model)
    _rename(model)
    _forget_traces(model)


def module_of(node: ir.Node) -> str:
    """Dotted name of the torch module that a node comes from; empty for the network itself.

    Torch's exporter keeps the modules on the way to a node in its metadata, as
    `: Deployable/network: FlowerNet/network.backbone.0: …/mean: aten.mean.dim`.
    """
    weight = node.inputs[1].name if node.op_type == "Conv" and node.inputs[1] else None
    if weight and weight.startswith("network."):
        # Fused with its BatchNorm, a convolution goes by the module whose weights it holds.
        return _without_wrapper(weight).removesuffix(".weight")
    scopes = node.metadata_props.get("namespace", "").split("/")[:-1]
    names = [scope.partition(":")[0].strip() for scope in scopes]
    return _without_wrapper(names[-1]) if names else ""


def static_hw(value: ir.Value | None) -> list[int]:
    """Height and width of maps (N, C, H, W).

    Raises:
        ValueError: they are not fixed.
    """
    shape = value.shape if value is not None else None
    sides = [side for side in shape[2:] if isinstance(side, int)] if shape is not None else []
    if len(sides) != 2:
        raise ValueError(f"{value}: height and width are not fixed")
    return sides


def constant(graph: ir.Graph, name: str, content: np.ndarray) -> ir.Value:
    """A new initializer of the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(content, name=name))
    value.shape, value.dtype = ir.Shape(content.shape), ir.DataType.from_numpy(content.dtype)
    graph.register_initializer(value)
    return value


def _resize_to_constant(model: ir.Model, node: ir.Node) -> None:
    """A Resize to sizes that are computed from the batch -> one with constants only."""
    before, after = static_hw(node.inputs[0]), static_hw(node.outputs[0])
    factors = [new / old for old, new in zip(before, after, strict=True)]
    if all(factor.is_integer() for factor in factors):
        scales = np.array([1, 1, *factors], np.float32)
        _set_inputs(node, {2: constant(model.graph, f"{node.name}_scales", scales)})
    else:
        # A scale that is no whole number rounds to another size sooner or later.
        sizes = np.array(after, np.int64)
        node.attributes["axes"] = ir.AttrInt64s("axes", [2, 3])
        _set_inputs(node, {3: constant(model.graph, f"{node.name}_sizes", sizes)})


def _pool_whole_map(model: ir.Model, node: ir.Node) -> None:
    """ReduceMean over height and width -> GlobalAveragePool, which runtimes have kernels for."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = ir.convenience.get_const_tensor(given) if given is not None else None
    keeps = node.attributes.get_int("keepdims", 1)
    if axes is None or sorted(axes.numpy().tolist()) not in ([2, 3], [-2, -1]) or not keeps:
        return
    node.op_type = "GlobalAveragePool"
    node.resize_inputs(1)
    node.attributes.clear()


def _set_inputs(node: ir.Node, used: dict[int, ir.Value]) -> None:
    """Keep a Resize's first input, and give the others as `used` says."""
    for index in range(1, len(node.inputs)):
        node.replace_input_with(index, None)
    node.resize_inputs(max(used) + 1)
    for index, value in used.items():
        node.replace_input_with(index, value)


def _rename(model: ir.Model) -> None:
    """`node_Conv_1203` -> `backbone.layer1.0.conv1/Conv`; its value likewise."""
    counts: Counter[str] = Counter()
    for node in model.graph:
        name = f"{module_of(node)}/{node.op_type}".lstrip("/")
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
        for value in node.outputs:
            if value.name not in _BORDER:
                value.name = node.name
    for value, name in list(_initializer_names(model)):
        value.name = name


def _initializer_names(model: ir.Model) -> Iterator[tuple[ir.Value, str]]:
    """Weights keep their names in the checkpoint; constants are called after who reads them."""
    for value in list(model.graph.initializers.values()):
        old = value.name or ""
        if old.startswith("network."):
            yield value, _without_wrapper(old)
        else:
            user = next(iter(value.uses()))
            yield value, f"{user.node.name}:{user.idx}"


def _without_wrapper(name: str) -> str:
    return name.removeprefix("network").removeprefix(".")


def _forget_traces(model: ir.Model) -> None:
    model.graph.metadata_props.clear()
    for node in model.graph:
        module = module_of(node)
        node.metadata_props.clear()
        node.metadata_props["module"] = module
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
