"""The contract of a deployable ONNX graph: its border, and that all of it is in the one file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flowerseg.errors import some_of

if TYPE_CHECKING:
    import onnx

    from flowerseg.artifact import Batch, Manifest


def require_deployable(path: Path, manifest: "Manifest") -> None:
    """Refuse an ONNX file that does not keep the contract. No other file is read.

    Raises:
        ValueError: it is no ONNX, its border is another one, or some of its tensors lie in other
            files, whose bytes the manifest's SHA-256 does not cover.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, a package that flowerseg does not import
        raise ValueError("it is not an ONNX model, or is damaged") from error
    try:
        outside = list(external_tensors(model))
        fault = border_fault(model, manifest.preprocess.size_hw, manifest.batch)
    except TypeError as error:  # protobuf has bytes in place of a text that is not UTF-8
        raise ValueError("it is damaged: one of its names is not UTF-8") from error
    if outside:
        raise ValueError(
            f"{len(outside)} of its tensors lie in other files ({some_of(outside)}), which its "
            "SHA-256 does not cover. Save all in one file: onnx.save(onnx.load(PATH), OUT, "
            "save_as_external_data=False), and export or verify that one"
        )
    if fault:
        raise ValueError(fault)


def border_fault(
    model: "onnx.ModelProto", size_hw: tuple[int, int], batch: "Batch | None" = None
) -> str:
    """How a graph's inputs and outputs differ from the contract, in words; empty if they do not.

    Args:
        model: the graph.
        size_hw: of the frames.
        batch: sizes that the file takes. The graph's is dynamic, or the only one of them.
    """
    import onnx

    border = [*model.graph.input, *model.graph.output]
    fixed = batch.max if batch and batch.min == batch.max else None
    first = {_first_dimension(value) for value in border}
    allowed = {"batch", str(fixed)} if fixed else {"batch"}
    dims = first.pop() if len(first) == 1 and first <= allowed else "batch"
    height, width = size_hw
    expected = [
        f"images uint8 ({dims}, {height}, {width}, 3)",
        f"foreground uint8 ({dims}, {height}, {width})",
    ]
    kinds = onnx.TensorProto.DataType
    found = [_described(value, kinds.Name(value.type.tensor_type.elem_type)) for value in border]
    if found == expected:
        return ""
    return f"the graph has {found} where the contract has {expected}"


def external_tensors(model: "onnx.ModelProto") -> Iterator[str]:
    """Names of the tensors whose data lie in other files, of subgraphs and functions too."""
    import onnx

    nodes = [node for function in model.functions for node in function.node]
    for tensor in (*_tensors_of_graph(model.graph), *_tensors_of_nodes(nodes)):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor.name or "one without a name"


def _tensors_of_graph(graph: "onnx.GraphProto") -> "Iterator[onnx.TensorProto]":
    yield from graph.initializer
    yield from _parts(graph.sparse_initializer)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: "Iterable[onnx.NodeProto]") -> "Iterator[onnx.TensorProto]":
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        yield from _parts((attribute.sparse_tensor, *attribute.sparse_tensors))
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of_graph(graph)


def _parts(sparse: "Iterable[onnx.SparseTensorProto]") -> "Iterator[onnx.TensorProto]":
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _first_dimension(value: "onnx.ValueInfoProto") -> str:
    dims = value.type.tensor_type.shape.dim
    return (dims[0].dim_param or str(dims[0].dim_value)) if dims else ""


def _described(value: "onnx.ValueInfoProto", kind: str) -> str:
    dims = (dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
    return f"{value.name} {kind.lower()} ({', '.join(dims)})"
