"""How many multiply-adds one photo takes: counted from the network, never measured."""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from flowerseg.arrays import Rgb
from flowerseg.artifact import Kind, manifest_path, open_artifact, read_manifest
from flowerseg.backends import Backend, run
from flowerseg.errors import ArtifactError
from flowerseg_bench.results import Row

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Shapes: TypeAlias = dict[str, list[int]]
"""Of every tensor whose shape is known; a dimension of any size, such as the batch, is 0."""

UNCOUNTED = {"ConvTranspose", "ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul"}
"""They multiply too. flowerseg writes none of them, and a graph that holds one is not counted."""


def multiply_adds_of(row: Row, backend: Backend, frame: Rgb) -> int | None:
    """Multiply-adds of one photo in a row's network; None where they cannot be counted.

    A checkpoint is counted while PyTorch runs it, an ONNX file from its graph, and an engine from
    the ONNX file that it was built from, if that lies beside it.
    """
    match row.kind:
        case Kind.CHECKPOINT if row.runtime != "torch-compile":  # whose operators are not torch's
            return multiply_adds_of_run(backend, frame)
        case Kind.ONNX:
            return multiply_adds_of_file(Path(row.file))
        case Kind.TENSORRT | Kind.TENSORRT_RTX:
            graph = _graph_beside(Path(row.file))
            return multiply_adds_of_file(graph) if graph else None
        case _:
            return None


def multiply_adds_of_run(backend: Backend, frame: Rgb) -> int:
    """What PyTorch's own operators multiply for one frame (torch.utils.flop_counter)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run(backend, np.stack([frame]))
    operations: int = counter.get_total_flops()
    return operations // 2  # a multiplication and an addition


def multiply_adds_of_file(path: Path, *, with_padding: bool = True) -> int | None:
    """Those of an ONNX file's graph; see `multiply_adds_of_graph`."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return multiply_adds_of_graph(model, with_padding=with_padding)


def multiply_adds_of_graph(model: "ModelProto", *, with_padding: bool = True) -> int | None:
    """Conv, Gemm and MatMul of a graph whose first dimension is the batch, for one photo.

    Args:
        model: the graph.
        with_padding: count the taps that meet padding, as every such count does. Without them it
            is what a runtime cannot do less of, if it computes convolutions by their definition.

    Returns:
        The number, or None if a shape is not known.
    """
    shapes = _shapes_of(model)
    counts = [_multiply_adds(node, shapes, with_padding=with_padding) for node in model.graph.node]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _multiply_adds(node: "NodeProto", shapes: Shapes, *, with_padding: bool) -> int | None:
    if node.op_type in UNCOUNTED:
        return None
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    weight, result = shapes.get(node.input[1], []), shapes.get(node.output[0], [])
    if not weight or not result:
        return None
    if node.op_type == "Conv" and not with_padding:
        return _multiply_adds_inside(node, shapes)
    if node.op_type == "Conv":
        each = prod(weight[1:])  # (out, in of the group, kernel): products for one output
    else:
        is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
        each = weight[-1 if is_transposed else -2]
    return each * prod(result[1:]) or None  # a dimension of 0 is one that is not known


def _multiply_adds_inside(node: "NodeProto", shapes: Shapes) -> int | None:
    """Of a convolution, those that meet its input and not its padding."""
    from onnx.helper import get_attribute_value

    images, (_, channels, *kernel_hw) = shapes.get(node.input[0], []), shapes[node.input[1]]
    maps, *places_hw = shapes[node.output[0]][1:]
    given = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    if not all(images[1:]) or given.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    sides = zip(
        images[2:],
        places_hw,
        kernel_hw,
        given.get("strides", (1, 1)),
        given.get("dilations", (1, 1)),
        given.get("pads", (0, 0)),  # of the rows' and the columns' beginning, then of their ends
        strict=False,
    )
    return maps * channels * prod(_taps_inside(*side) for side in sides) or None


def _taps_inside(
    size: int, places: int, taps: int, stride: int, dilation: int, padding: int
) -> int:
    """Along one side of a map, over all places: the taps that meet it."""
    meets = stride * np.arange(places)[:, None] + dilation * np.arange(taps) - padding
    return int(np.count_nonzero((meets >= 0) & (meets < size)))


def _shapes_of(model: "ModelProto") -> Shapes:
    from onnx.shape_inference import infer_shapes

    graph = infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return shapes | {weight.name: list(weight.dims) for weight in graph.initializer}


def _graph_beside(engine: Path) -> Path | None:
    """The very ONNX file that an engine was built from, if it is still beside it."""
    for parent in read_manifest(manifest_path(engine)).parents:
        path = engine.with_name(parent.name)
        if parent.kind is Kind.ONNX and path.is_file():
            try:
                artifact = open_artifact(path)
            except ArtifactError:  # it was replaced since: another graph, another count
                continue
            if artifact.manifest.sha256 == parent.sha256:
                return path
    return None
