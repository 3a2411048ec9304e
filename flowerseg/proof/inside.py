"""What is inside an ONNX file: its values beside the network's modules, and its scales."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from flowerseg.arrays import Rgb
from flowerseg.artifact import Artifact, Kind, open_artifact
from flowerseg.backends.ort import values_in_onnx
from flowerseg.errors import ArtifactError
from flowerseg.half import lineage
from flowerseg.model import FlowerNet
from flowerseg.proof.layers import INPUT, OUTPUT, Call, Value, calls_of
from flowerseg.quantised import Levels, Quantisation

_VALUE = re.compile(r"(?P<module>[\w.]+)/(?P<op>[A-Za-z]+)(?:_(?P<nth>\d+))?")
"""How export names values: `backbone.layer1.0.relu/Relu_2` is that ReLU's second call."""

_DEQUANTISED = "_DequantizeLinear_Output"
"""What a quantiser adds to the name of a value that it reads back from 8 bits."""

Source = Callable[[Rgb], dict[Call, Value]]
"""From a frame (H, W, 3) to the values of a file's or a network's modules."""


def graph_of(artifact: Artifact) -> Artifact | None:
    """The file itself, or the ONNX file beside it that it was built from."""
    if artifact.manifest.kind is Kind.ONNX:
        return artifact
    for parent in artifact.manifest.parents:
        path = artifact.path.with_name(parent.name)
        if parent.kind is Kind.ONNX and path.is_file():
            graph = open_artifact(path)
            return graph if graph.manifest.sha256 == parent.sha256 else None
    return None


def onnx_source(artifact: Artifact, network: FlowerNet) -> Source:
    """The values of an ONNX file, in ONNX Runtime on the CPU.

    Args:
        artifact: the file.
        network: the reference that it was made from, made for its frames by `model.specialised`.
    """
    graph = onnx.load(artifact.path).graph
    spots = spots_in(graph, calls_of(network, artifact.manifest.preprocess.size_hw))
    run = values_in_onnx(artifact, [value for value, _ in spots.values()])

    def source(frame: Rgb) -> dict[Call, Value]:
        values = run(frame[None])
        return {
            call: Value(torch.from_numpy(values[name][0].astype(np.float32)), made_by)
            for call, (name, made_by) in spots.items()
        }

    return source


def spots_in(graph: onnx.GraphProto, calls: Sequence[Call]) -> dict[Call, tuple[str, str]]:
    """Where the outputs of the reference's calls are in a graph: value, and module that makes it.

    Of a quantised value what counts is what the next node reads: the dequantised one.
    """
    made_by = {value: node.name for node in graph.node for value in node.output}
    # Of a convolution that is computed in parts there is the dequantised value only.
    values = list(dict.fromkeys(value.removesuffix(_DEQUANTISED) for value in made_by))
    spots: dict[Call, tuple[str, str]] = {}
    for value, call in _calls_by_value(values, set(calls)).items():
        # Quantisation fuses a ReLU into the convolution before it, whose name the node keeps.
        node = _VALUE.fullmatch(made_by.get(value, ""))
        dequantised = value + _DEQUANTISED
        read = dequantised if dequantised in made_by else value
        spots[call] = (read, node["module"] if node else call.module)
    first = next(node for node in graph.node if node.op_type == "Conv")
    border = {Call(INPUT): (first.input[0], INPUT), Call(OUTPUT): (graph.output[0].name, OUTPUT)}
    return spots | border


def _calls_by_value(values: Sequence[str], calls: set[Call]) -> dict[str, Call]:
    named = [(name, match) for name in values if (match := _VALUE.fullmatch(name))]
    last: dict[str, re.Match[str]] = {}
    for _, match in named:
        for scope in lineage(match["module"]):
            last[scope] = match
    found: dict[str, Call] = {}
    for name, match in named:
        # What a module gives is the last that is computed in it: of torchvision's residual block
        # not the sum, but the ReLU after it.
        module, final = match["module"], last[match["module"]]
        call = Call(module, int(match["nth"] or 1))
        if call in calls and (final["module"], final["op"]) == (module, match["op"]):
            found[name] = call
    return found


def quantisation_of(artifact: Artifact) -> Quantisation:
    """What an ONNX file rounds to 8 bits, with its scales.

    Raises:
        ArtifactError: a scale or a zero point is none that export writes.
    """
    graph = onnx.load(artifact.path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {value: node for node in graph.node for value in node.output}
    values: dict[str, Levels] = {}
    weights: dict[str, NDArray[np.float32]] = {}
    biases: dict[str, NDArray[np.float32]] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            is_bias = constants[node.input[0]].dtype == np.int32
            parameter = node.input[1].removesuffix("_scale").removesuffix("_quantized")
            steps = _steps(artifact, constants, node.input[1])
            (biases if is_bias else weights)[parameter] = steps
        for value in node.output:
            quantise = _quantise_of(value, made_by) if value.endswith(_DEQUANTISED) else None
            if quantise is not None:
                levels = _levels(artifact, constants, quantise)
                values[_before_casts(value.removesuffix(_DEQUANTISED), made_by)] = levels
    unrounded: dict[str, list[str | None]] = {}
    for node in graph.node:
        read = [_before_casts(value, made_by) for value in node.input]
        if node.op_type not in ("QuantizeLinear", "Cast") and not values.keys().isdisjoint(read):
            unrounded[node.name] = [value if value in values else None for value in read]
    return Quantisation(values, weights, biases, unrounded)


def _before_casts(value: str, made_by: Mapping[str, onnx.NodeProto]) -> str:
    """The value whose type was changed to give this one; the network knows no such step."""
    while (node := made_by.get(value)) is not None and node.op_type == "Cast":
        value = node.input[0]
    return value


def _quantise_of(value: str, made_by: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The QuantizeLinear from which a value is read back; of parts, which have the same scale, the
    first. None of a constant."""
    node = made_by.get(value)
    while node is not None and node.op_type != "QuantizeLinear":
        node = made_by.get(node.input[0])
    return node


def _levels(
    artifact: Artifact, constants: Mapping[str, NDArray[Any]], quantise: onnx.NodeProto
) -> Levels:
    step = _steps(artifact, constants, quantise.input[1])
    given = quantise.input[2] if len(quantise.input) > 2 else ""
    zero_point = constants.get(given, np.array([]))
    if zero_point.dtype not in (np.uint8, np.int8) or (step.size, zero_point.size) != (1, 1):
        raise ArtifactError(
            f"{artifact.path}: {quantise.name} has no single scale and zero point of 8 bits. "
            "Export it again."
        )
    limits = np.iinfo(zero_point.dtype)
    return Levels(float(step), int(zero_point), int(limits.min), int(limits.max))


def _steps(
    artifact: Artifact, constants: Mapping[str, NDArray[Any]], name: str
) -> NDArray[np.float32]:
    steps = constants.get(name, np.array(np.nan)).astype(np.float32)
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise ArtifactError(
            f"{artifact.path}: {name} is no positive number in the file. Export it again."
        )
    return steps
