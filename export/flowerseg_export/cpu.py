"""A graph rearranged for the 8-bit kernels of processors: the same function, less work."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from flowerseg_export.tidy import constant, static_hw

# A convolution is computed in parts where that leaves at most this share of its products: for less
# gain, the parts' copies and small kernels do not pay.
_WORTHWHILE = 0.5


def for_processors(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP32 graph of the same function that runtimes on processors run faster once quantised.

    - 8-bit kernels of oneDNN and MLAS multiply a convolution's padding too, which their FP32
      kernels skip: four fifths of the products of ASPP's branch of dilation 12 on a map of 14 x 14.
    - ONNX Runtime moves the frames' transposition behind their normalisation, whose constants are
      then repeated from pixel to pixel, three values at a time.
    - OpenVINO's bilinear Interpolate of one channel takes longer than the convolutions of the head;
      as two products of matrices it takes next to nothing.

    Args:
        model: height and width of its maps are static.
    """
    rearranged = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
    for node in list(rearranged.graph):
        match node.op_type:
            case "Conv":
                _split_at_padding(rearranged.graph, node)
            case "Sub" | "Div":
                _repeat_constant_along_rows(rearranged.graph, node)
            case "Resize":
                _interpolate_by_products(rearranged.graph, node)
    RemoveUnusedNodesPass()(rearranged)  # and the weights that are in parts now
    return ir.to_proto(rearranged)


def _split_at_padding(graph: ir.Graph, conv: ir.Node) -> None:
    """A convolution that meets mostly padding -> one for each part of its map, joined."""
    images, weight, *bias = conv.inputs
    if images is None or weight is None or weight.const_value is None:
        return
    top, left, bottom, right = conv.attributes.get_ints("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right) or set(conv.attributes.get_ints("strides", (1, 1))) != {1}:
        return
    kernel, size_hw = weight.const_value.numpy(), static_hw(images)
    dilations = conv.attributes.get_ints("dilations", (1, 1))
    sides = zip(size_hw, kernel.shape[2:], dilations, (top, left), strict=True)
    rows, columns = (_parts(*side) for side in sides)
    if not rows or not columns or _share_of_products(rows, columns, kernel) > _WORTHWHILE:
        return

    parts = _Nodes(graph, conv)
    kept = {"dilations": dilations, "group": conv.attributes.get_int("group", 1)}
    strips = []
    for row, part_y in enumerate(rows):
        strip = parts.slice(images, 2, part_y.reads, f"rows{row}")
        tiles = []
        for column, part_x in enumerate(columns):
            place = f"{row}{column}"
            tile = parts.slice(strip, 3, part_x.reads, f"tile{place}")
            taps = parts.constant(kernel[:, :, part_y.taps, part_x.taps], f"taps{place}")
            tiles.append(parts.op("Conv", [tile, taps, *bias], place, kept))
        strips.append(parts.op("Concat", tiles, f"strip{row}", {"axis": 3}))
    parts.replace_by(parts.op("Concat", strips, "map", {"axis": 2}))


@dataclass(frozen=True)
class _Part:
    """A stretch of one side of an output map where the same taps meet the input."""

    taps: slice
    reads: slice  # of the input's side: all that these taps meet from this stretch
    length: int

    @property
    def products(self) -> int:
        taps: int = self.taps.stop - self.taps.start
        return self.length * taps


def _parts(size: int, taps: int, dilation: int, padding: int) -> list[_Part]:
    """One side of a convolution of stride 1, in parts without padding, from first to last.

    Empty where some place meets nothing but padding.
    """
    # Output place i meets input place i + offset.
    offsets = [tap * dilation - padding for tap in range(taps)]
    length = size + 2 * padding - dilation * (taps - 1)
    edges = {edge for offset in offsets for edge in (-offset, size - offset)}
    bounds = [0, *sorted(edge for edge in edges if 0 < edge < length), length]
    parts = []
    for first, end in itertools.pairwise(bounds):
        inside = [tap for tap, offset in enumerate(offsets) if 0 <= first + offset < size]
        if not inside:
            return []
        reads = slice(first + offsets[inside[0]], end + offsets[inside[-1]])
        parts.append(_Part(slice(inside[0], inside[-1] + 1), reads, end - first))
    return parts


def _share_of_products(rows: list[_Part], columns: list[_Part], kernel: np.ndarray) -> float:
    places = sum(part.length for part in rows) * sum(part.length for part in columns)
    products = sum(part.products for part in rows) * sum(part.products for part in columns)
    share: float = products / (places * kernel.shape[2] * kernel.shape[3])
    return share


def _repeat_constant_along_rows(graph: ir.Graph, node: ir.Node) -> None:
    """A constant of one value a channel -> one of a row, which a runtime takes at one go."""
    images, given = node.inputs
    if images is None or given is None or given.const_value is None:
        return
    channels = given.const_value.numpy()
    if channels.ndim == 4 and channels.shape[2:] == (1, 1):
        row = np.repeat(channels, static_hw(images)[1], axis=3)
        node.replace_input_with(1, constant(graph, f"{given.name}_row", row))


def _interpolate_by_products(graph: ir.Graph, resize: ir.Node) -> None:
    """A bilinear Resize -> a matrix for rows, times the maps, times a matrix for columns."""
    maps, larger = resize.inputs[0], resize.outputs[0]
    if maps is None:
        return
    sides = zip(static_hw(maps), static_hw(larger), strict=True)
    rows, columns = (_interpolation(old, new) for old, new in sides)
    nodes = _Nodes(graph, resize)
    taller = nodes.op("MatMul", [nodes.constant(rows, "rows:0"), maps], "rows")
    nodes.replace_by(nodes.op("MatMul", [taller, nodes.constant(columns.T, "map:1")], "map"))


def _interpolation(old: int, new: int) -> np.ndarray:
    """The matrix (new, old) that interpolates a line between the centres of its pixels.

    Beyond the outermost centres the line is constant: `half_pixel` of ONNX's Resize, PyTorch's
    `align_corners=False`.
    """
    places = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    distances = np.abs(places[:, None] - np.arange(old))
    matrix: np.ndarray = (1 - distances).clip(min=0).astype(np.float32)
    return matrix


class _Nodes:
    """Nodes in the place of one, called after it."""

    def __init__(self, graph: ir.Graph, replaced: ir.Node) -> None:
        self._graph = graph
        self._replaced = replaced
        self._tape = Tape()

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        suffix: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        name = self._named(suffix)
        return self._tape.op(op_type, inputs, attributes, name=name, output=ir.Value(name=name))

    def constant(self, content: np.ndarray, suffix: str) -> ir.Value:
        return constant(self._graph, self._named(suffix), np.ascontiguousarray(content))

    def slice(self, maps: ir.Value, axis: int, reads: slice, suffix: str) -> ir.Value:
        bounds = [
            self.constant(np.array([number], np.int64), f"{suffix}:{index}")
            for index, number in enumerate((reads.start, reads.stop, axis), start=1)
        ]
        return self.op("Slice", [maps, *bounds], suffix)

    def replace_by(self, result: ir.Value) -> None:
        old = self._replaced
        ir.convenience.replace_nodes_and_values(
            self._graph, old, [old], self._tape.nodes, old.outputs, [result]
        )

    def _named(self, suffix: str) -> str:
        return f"{self._replaced.name}_{suffix}"
