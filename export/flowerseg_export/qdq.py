"""Pairs of QuantizeLinear and DequantizeLinear (Q/DQ) where TensorRT fuses them into INT8 kernels.

The places are those of NVIDIA's "Q/DQ Layer-Placement Recommendations" (TensorRT documentation,
"Explicit Quantization"). ONNX Runtime's quantiser cannot place them so: it quantises both inputs of
an Add or neither, and in a graph typed in half it replaces every weight scale below 6.1e-5 by 1,
which turns the weights of that channel into zeros (1.31).
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from flowerseg.errors import ExportError
from flowerseg_export.tidy import constant, static_hw

_LARGEST = 127  # symmetric: -128 is not used, so that a weight and its negative are equally exact


def with_qdq(
    model: onnx.ModelProto, ranges: Mapping[str, float], kept: Collection[str] = ()
) -> onnx.ModelProto:
    """Quantise the convolutions of a graph as TensorRT fuses them.

    - The input of each convolution has one Q/DQ pair with one scale, and all other readers of that
      value share the pair. The pair therefore stands behind the activation, never between a
      convolution and its activation.
    - Weights are INT8 with one scale for each output channel; biases stay in float.
    - Of a residual Add only the skip branch is quantised: TensorRT then computes convolution, Add,
      activation and the next Q in one kernel.
    - Depthwise convolutions are quantised too. TensorRT fuses a depthwise convolution with the
      1 x 1 convolution behind it only where both are INT8, and between INT8 neighbours a
      convolution in float would cost two conversions of its map.
    - Float: the convolution that gives the logits, and convolutions of maps of 1 x 1, which are
      products of a matrix and a vector (squeeze-and-excitation, ASPP's pooled branch). They use no
      matrix units, so their Q/DQ nodes would cost more than they save. The product of a map and
      its gate is in float as well, between float neighbours.

    Scales have the type of the value that they scale, as a strongly typed engine requires.

    Args:
        model: FP32, or typed in half with opset 19 or later.
        ranges: the largest absolute value of each input of a Conv or an Add, by name.
        kept: names of nodes that stay in float and read values that are not rounded.

    Raises:
        ExportError: a value has no finite range.
    """
    quantised = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
    graph = quantised.graph
    convolutions = [node for node in _convolutions_in_int8(graph) if node.name not in kept]
    values = [node.inputs[0] for node in convolutions] + list(_skips(graph, set(convolutions)))
    for value in dict.fromkeys(values):
        if value is not None:
            _quantise_activation(graph, value, _range_of(value, ranges), kept)
    for node in convolutions:
        _quantise_weight(graph, node)
    return ir.to_proto(quantised)


def _convolutions_in_int8(graph: ir.Graph) -> Iterator[ir.Node]:
    head = _head(graph)
    for node in graph:
        if node.op_type == "Conv" and node is not head and static_hw(node.inputs[0]) != [1, 1]:
            yield node


def _head(graph: ir.Graph) -> ir.Node | None:
    """The convolution that gives the logits: the last one before the output."""
    node = graph.outputs[0].producer()
    while node is not None and node.op_type != "Conv":
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node


def _skips(graph: ir.Graph, quantised: set[ir.Node]) -> Iterator[ir.Value]:
    """The input of each residual Add that does not come from the block's last convolution.

    Both inputs may come from a convolution, so the one with fewer nodes before it is the skip.
    """
    depths = _depths(graph)
    for node in graph:
        if node.op_type == "Add":
            first, second = (value for value in node.inputs if value is not None)
            skip, main = sorted((first, second), key=lambda value: depths.get(value, 0))
            if main.producer() in quantised:
                yield skip


def _depths(graph: ir.Graph) -> dict[ir.Value, int]:
    """The number of nodes on the longest way from the graph's input to each value."""
    depths: dict[ir.Value, int] = {}
    for node in graph:
        before = [depths.get(value, 0) for value in node.inputs if value is not None]
        depths |= dict.fromkeys(node.outputs, 1 + max(before, default=0))
    return depths


def _range_of(value: ir.Value, ranges: Mapping[str, float]) -> float:
    source, producer = value, value.producer()
    while producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
        source = producer.inputs[0]  # calibration ran in FP32, without this cast to half
        producer = source.producer()
    largest = ranges.get(source.name or "", np.nan)
    if not np.isfinite(largest):
        raise ExportError(
            f"--int8: calibration found no finite range for {value.name}; a network that gives "
            "NaN or infinity on its own photos cannot be quantised."
        )
    return largest


def _quantise_activation(
    graph: ir.Graph, value: ir.Value, largest: float, kept: Collection[str]
) -> None:
    """Let the readers of a value read it rounded to INT8, except those that are kept."""
    scale = constant(graph, f"{value.name}_scale", _scales(np.array(largest), value.dtype))
    zero = constant(graph, f"{value.name}_zero", np.zeros((), np.int8))
    readers = [use for use in value.uses() if use.node.name not in kept]
    quantise = _node(value, "QuantizeLinear", [value, scale, zero], ir.DataType.INT8)
    dequantise = _node(value, "DequantizeLinear", [quantise.outputs[0], scale, zero], value.dtype)
    for node, index in readers:
        node.replace_input_with(index, dequantise.outputs[0])
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantise, dequantise])
    else:
        graph.insert_after(producer, [quantise, dequantise])


def _quantise_weight(graph: ir.Graph, node: ir.Node) -> None:
    """A convolution's weights in float -> in INT8, with a scale for each output channel."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        raise ExportError(f"--int8: the weights of {node.name} are not a constant of the graph.")
    floats = weight.const_value.numpy().astype(np.float32)
    scales = _scales(np.abs(floats).max(axis=(1, 2, 3)), weight.dtype)
    steps = scales.astype(np.float32).reshape(-1, 1, 1, 1)
    levels = np.rint(floats / steps).clip(-_LARGEST, _LARGEST).astype(np.int8)
    inputs = [
        constant(graph, f"{weight.name}_quantized", levels),
        constant(graph, f"{weight.name}_scale", scales),
        constant(graph, f"{weight.name}_zero", np.zeros(len(levels), np.int8)),
    ]
    dequantise = _node(weight, "DequantizeLinear", inputs, weight.dtype, {"axis": 0})
    dequantise.metadata_props.update(node.metadata_props)
    node.replace_input_with(1, dequantise.outputs[0])
    graph.insert_before(node, dequantise)
    if not weight.uses() and weight.name is not None:
        del graph.initializers[weight.name]


def _scales(largest: np.ndarray, dtype: ir.DataType | None) -> np.ndarray:
    """Steps with which 127 reaches the largest values; 1 where all are zero.

    Rounded up to the type: rounded down, small steps in half would clip the values, or be zero.
    """
    if dtype is None:
        raise AssertionError("shape inference gives every value a type")
    exact = np.where(largest > 0, largest.astype(np.float64) / _LARGEST, 1.0)
    rounded = exact.astype(dtype.numpy())
    scales: np.ndarray = np.where(
        rounded < exact, np.nextafter(rounded, rounded.dtype.type(np.inf)), rounded
    )
    return scales


def _node(
    value: ir.Value,
    op_type: str,
    inputs: list[ir.Value],
    dtype: ir.DataType | None,
    attributes: Mapping[str, int] | None = None,
) -> ir.Node:
    """A node called after the value that it quantises, which comes from the same module.

    The names are those of ONNX Runtime's quantiser, by which the proof finds values in the file.
    """
    name = f"{value.name}_{op_type}"
    typed = ir.TensorType(dtype) if dtype else None
    output = ir.Value(name=f"{name}_Output", shape=value.shape, type=typed)
    node = ir.node(op_type, inputs, dict(attributes or {}), name=name, outputs=[output])
    producer = value.producer()
    if producer is not None:
        node.metadata_props.update(producer.metadata_props)
    return node
