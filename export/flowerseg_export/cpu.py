"""Graphs rearranged for the 8-bit kernels of processors: the same function, less work."""

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

_OF_TAPS = ("dilations", "group")  # what the parts of a convolution have from the whole


# From so many channels on, a depthwise convolution took OpenVINO longer in 8 bits than in floats.
_WIDE = 128

_OF_INTERPOLATION = ("mode", "coordinate_transformation_mode")


def before_quantisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP32 graph of the same function that runtimes on processors run faster once quantised.

    - ONNX Runtime moves the frames' transposition behind their normalisation, whose constants are
      then repeated from pixel to pixel, three values at a time: here they fill a row.
    - OpenVINO interpolates a map of one channel slowly; two products of matrices are the same.
    """
    rearranged = _with_shapes(model)
    for node in list(rearranged.graph):
        if node.op_type in ("Sub", "Div"):
            _repeat_constant_along_rows(rearranged.graph, node)
        elif node.op_type == "Resize":
            _interpolate_by_products(rearranged.graph, node)
    return _written(rearranged)


def left_in_float(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes of a graph from `before_quantisation` that 8 bits would not do well.

    - The convolution that gives the logits, the products that enlarge their map, and all behind:
      rounded to 8 bits they move and bend outlines. One channel takes no time.
    - Depthwise convolutions of many channels, and squeeze-and-excitation, up to the map that it
      weighs: they multiply little, and OpenVINO spends more on scaling and rounding than it saves.
    """
    enlarged: set[ir.Node] = set()
    nodes: list[ir.Node] = []
    for node in ir.from_proto(model).graph:
        if node.op_type == "MatMul" or not enlarged.isdisjoint(node.predecessors()):
            enlarged.add(node)
            nodes += [before for before in node.predecessors() if before.op_type == "Conv"]
        elif _is_wide_depthwise(node):
            nodes.append(node)
        elif node.op_type == "Mul":
            nodes += _squeeze_and_excitation(node)
    return [node.name for node in (*nodes, *enlarged) if node.name]


def after_quantisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """A Q/DQ graph of the same function, to a rounding of FP32, with less work.

    - 8-bit kernels of oneDNN and MLAS multiply a convolution's padding too, which their FP32
      kernels skip: four fifths of the products of ASPP's branch of dilation 12 on a map of 14 x 14.
    - OpenVINO computes a convolution, its HardSwish and the quantisation behind it in one pass if
      what lies between is a scale and a sum. A zero point takes it two more passes over the map.
    """
    rearranged = _with_shapes(model)
    for node in list(rearranged.graph):
        if node.op_type == "Conv":
            _split_at_padding(rearranged.graph, node)
        elif node.op_type == "HardSwish":
            _add_instead_of_zero_point(rearranged.graph, node)
    return _written(rearranged)


def _with_shapes(model: onnx.ModelProto) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))


def _written(model: ir.Model) -> onnx.ModelProto:
    RemoveUnusedNodesPass()(model)  # and constants that others have replaced
    return ir.to_proto(model)


def _is_wide_depthwise(node: ir.Node) -> bool:
    return node.op_type == "Conv" and node.attributes.get_int("group", 1) > _WIDE


def _squeeze_and_excitation(product: ir.Node) -> list[ir.Node]:
    """The nodes of the size of maps, where a map is multiplied by what its own mean gives."""
    for maps, gate in itertools.permutations(product.inputs):
        sigmoid = gate.producer() if gate is not None else None
        uses = maps.uses() if maps is not None else ()
        pools = [use.node for use in uses if use.node.op_type == "GlobalAveragePool"]
        if pools and sigmoid is not None:
            return [*pools, sigmoid, product]
    return []


def _split_at_padding(graph: ir.Graph, conv: ir.Node) -> None:
    """A quantised convolution that meets mostly padding -> one for each part of its map, joined."""
    to_maps, to_weight = (_dequantisation(value) for value in conv.inputs[:2])
    after = [use.node for use in conv.outputs[0].uses()]
    if not to_maps or not to_weight or [node.op_type for node in after] != ["QuantizeLinear"]:
        return
    maps, weight = to_maps.inputs[0], to_weight.inputs[0]
    if maps is None or weight is None or weight.const_value is None:
        return
    kernel = weight.const_value.numpy()
    rows, columns = _parts_of(conv, static_hw(maps), kernel.shape[2:])
    if _share_of_products(rows, columns, kernel.shape[2:]) > _WORTHWHILE:
        return

    nodes = _Nodes(graph, conv)
    kept = {name: conv.attributes[name] for name in conv.attributes if name in _OF_TAPS}
    strips = []
    for row, part_y in enumerate(rows):
        strip = nodes.slice(maps, 2, part_y.reads, f"rows{row}")
        tiles = []
        for column, part_x in enumerate(columns):
            place = f"part{row}{column}"  # a number alone would be that of a module's call
            tile = nodes.slice(strip, 3, part_x.reads, f"{place}_tile")
            taps = nodes.constant(kernel[:, :, part_y.taps, part_x.taps], f"{place}_taps")
            inputs = [
                nodes.like(to_maps, tile, f"{place}_tile_DequantizeLinear"),
                nodes.like(to_weight, taps, f"{place}_taps_DequantizeLinear"),
                *conv.inputs[2:],
            ]
            result = nodes.op("Conv", inputs, place, kept)
            tiles.append(nodes.like(after[0], result, f"{place}_QuantizeLinear"))
        strips.append(nodes.op("Concat", tiles, f"strip{row}", {"axis": 3}))
    nodes.replace(after[0], nodes.op("Concat", strips, "map", {"axis": 2}))


def _add_instead_of_zero_point(graph: ir.Graph, activation: ir.Node) -> None:
    """scale * (bytes - zero point) before an activation -> scale * bytes + a constant."""
    to_maps = _dequantisation(activation.inputs[0])
    if to_maps is None or len(to_maps.inputs) < 3:
        return
    maps, *given = to_maps.inputs
    scale, zero = (value.const_value if value is not None else None for value in given)
    # Others may need the value straight from its DequantizeLinear, as convolutions do.
    readers = {use.node.op_type for use in to_maps.outputs[0].uses()}
    if scale is None or zero is None or zero.shape != () or readers != {activation.op_type}:
        return
    nodes = _Nodes(graph, to_maps)
    no_zero = nodes.constant(np.zeros_like(zero.numpy()), "no_zero")
    shift = nodes.constant(-scale.numpy() * zero.numpy().astype(np.float32), "shift")
    scaled = nodes.op("DequantizeLinear", [maps, given[0], no_zero], "scaled", to_maps.attributes)
    nodes.replace(to_maps, nodes.op("Add", [scaled, shift], "shifted"))


def _dequantisation(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that gives a value."""
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


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


def _parts_of(
    conv: ir.Node, size_hw: Sequence[int], taps_hw: Sequence[int]
) -> tuple[list[_Part], list[_Part]]:
    """The parts of a convolution's rows and of its columns; none where it is strided."""
    ints = conv.attributes.get_ints
    top, left, bottom, right = ints("pads", (0, 0, 0, 0))
    if set(ints("strides", (1, 1))) != {1} or (top, left) != (bottom, right):
        return [], []
    sides = zip(size_hw, taps_hw, ints("dilations", (1, 1)), (top, left), strict=True)
    rows, columns = (_parts(*side) for side in sides)
    return rows, columns


def _share_of_products(rows: list[_Part], columns: list[_Part], taps_hw: Sequence[int]) -> float:
    """How many of the products of the whole convolution its parts need."""
    places = sum(part.length for part in rows) * sum(part.length for part in columns)
    products = sum(part.products for part in rows) * sum(part.products for part in columns)
    return products / (places * taps_hw[0] * taps_hw[1]) if places else 1.0


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
    how = [resize.attributes.get_string(name) for name in _OF_INTERPOLATION]
    if maps is None or how != ["linear", "half_pixel"]:
        return
    sides = zip(static_hw(maps), static_hw(larger), strict=True)
    rows, columns = (_interpolation(old, new) for old, new in sides)
    nodes = _Nodes(graph, resize)
    taller = nodes.op("MatMul", [nodes.constant(rows, "rows:0"), maps], "rows")
    result = nodes.op("MatMul", [taller, nodes.constant(columns.T, "map:1")], "map")
    nodes.replace(resize, result)


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
    """Nodes in the place of others, called after one of them."""

    def __init__(self, graph: ir.Graph, after: ir.Node) -> None:
        self._graph = graph
        self._name = after.name
        self._tape = Tape()

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        suffix: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        name = f"{self._name}_{suffix}"
        return self._tape.op(op_type, inputs, attributes, name=name, output=ir.Value(name=name))

    def like(self, node: ir.Node, given: ir.Value, suffix: str) -> ir.Value:
        """What a node does, done to another first input."""
        return self.op(node.op_type, [given, *node.inputs[1:]], suffix, node.attributes)

    def constant(self, content: np.ndarray, suffix: str) -> ir.Value:
        return constant(self._graph, f"{self._name}_{suffix}", np.ascontiguousarray(content))

    def slice(self, maps: ir.Value, axis: int, reads: slice, suffix: str) -> ir.Value:
        bounds = [
            self.constant(np.array([number], np.int64), f"{suffix}:{index}")
            for index, number in enumerate((reads.start, reads.stop, axis), start=1)
        ]
        return self.op("Slice", [maps, *bounds], suffix)

    def replace(self, last: ir.Node, result: ir.Value) -> None:
        """Let the new nodes give what the last one of the old gave."""
        ir.convenience.replace_nodes_and_values(
            self._graph, last, [last], self._tape.nodes, last.outputs, [result]
        )
