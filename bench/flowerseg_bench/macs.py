"""How many multiply-adds one photo takes: counted from the network's shapes, never measured."""

from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowerseg.arrays import SizeHW
from flowerseg.model import Architecture, FlowerNet, specialised

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Shapes: TypeAlias = dict[str, list[int]]
"""Of every tensor whose shape is known; a dimension of any size, such as the batch, is 0."""

UNCOUNTED = {"ConvTranspose", "ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul"}
"""They multiply too. flowerseg writes none of them, and a graph that holds one is not counted."""


@cache
def multiply_adds_of(architecture: str, size_hw: SizeHW) -> int | None:
    """Multiply-adds of one photo in a network as it ships; None for an unknown architecture.

    The convolutions are counted on shapes alone (torch's `meta` device), after those taps of the
    network were dropped that meet nothing but padding in frames of this size. So the number is the
    same for all files that were made from one checkpoint, whatever runtime runs them, and whether
    or not it replays a CUDA graph, in which no operator can be counted.

    A checkpoint of `--recipe notebook` has a head without padding, whose map is two places smaller:
    0.011 % less than is counted here for a MobileNetV3 at 224, 0.0006 % for a ResNet-101.
    """
    if architecture not in list(Architecture):
        return None
    with torch.device("meta"), torch.inference_mode():
        network = specialised(FlowerNet(Architecture(architecture)).eval(), size_hw)
        images = torch.empty((1, *size_hw, 3), dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            network(images)
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
