"""Where the fault is: the first module whose output departs from the reference's.

A file that fails its proof is taken apart on its own photos. Where its inside cannot be seen, as
in an engine, the ONNX file that it was built from is taken instead, and where half was not really
executed, emulated half too.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import onnx
import torch

from flowerseg.arrays import Rgb
from flowerseg.artifact import Artifact, Kind, Precision, open_artifact
from flowerseg.backends.ort import values_in_onnx
from flowerseg.checkpoint import network_from_artifact
from flowerseg.data import PhotoSet
from flowerseg.errors import ArtifactError
from flowerseg.half import emulated_half_from_network, lineage
from flowerseg.model import FlowerNet, specialised
from flowerseg.preprocess import frame_from_photo
from flowerseg.proof.layers import (
    INPUT,
    OUTPUT,
    Call,
    Layer,
    Value,
    calls_of,
    compare_layers,
    values_of_network,
)
from flowerseg.proof.prove import refuse_stranger

# A module's own error, in units of its output's spread, does not grow with depth, so that one
# number does for all modules. Highest of 154 modules on four photos, of correct exports of a
# trained MobileNetV3 and of the tests' random one, whose squeeze-and-excitation gates hardly vary
# and so show rounding most: FP32 9e-7 and 3e-6, FP16 0.003 and 0.016 (emulated half the same),
# INT8 0.06 and 0.11; the median is 1e-7, 3e-4 and 0.02. Each limit is thrice the highest or more.
OWN_ERROR: dict[Precision, float] = {
    Precision.FP32: 1e-4,
    Precision.FP16: 0.05,
    Precision.INT8: 0.35,
}

_VALUE = re.compile(r"(?P<module>[\w.]+)/(?P<op>[A-Za-z]+)(?:_(?P<nth>\d+))?")
"""How export names values: `backbone.layer1.0.relu/Relu_2` is that ReLU's second call."""

_DEQUANTISED = "_DequantizeLinear_Output"
"""What ONNX Runtime's quantiser adds to the name of a value that it reads back from 8 bits."""

_Source = Callable[[Rgb], dict[Call, Value]]


@dataclass(frozen=True)
class Located:
    """The first module, in the order of execution, whose output departs."""

    module: str
    own_error: float  # what it adds to the input that it was given; see `layers.relative_error`
    limit: float
    before: Layer | None  # what came before, and was right
    kind: str  # "departs" or "not finite"
    photo: str
    where: str  # which file, or which emulation

    def __str__(self) -> str:
        how = (
            "gives values that are not finite"
            if self.kind == "not finite"
            else f"departs from PyTorch FP32 by {self.own_error:.2g} of its spread, "
            f"more than {self.limit:g}"
        )
        before = (
            f"; before it {self.before.module} is right ({self.before.own_error:.2g})"
            if self.before
            else ""
        )
        return f"{self.module} {how}{before}. Seen in {self.where}, on {self.photo}."


@dataclass(frozen=True)
class Search:
    """Where a fault was looked for, and what was found."""

    looked_in: tuple[str, ...]
    found: Located | None
    layers: tuple[Layer, ...]  # of the last photo looked at: the one with the fault, if there is

    def to_text(self) -> str:
        """One line on the fault, and a table of the layers, the module in question marked."""
        if self.found is None:
            return (
                f"no module departs by itself, in {' or in '.join(self.looked_in)}: the fault is "
                "spread over many, or arises only in the file as the runtime fuses it."
            )
        rows = [
            f"{'>' if layer.module == self.found.module else ' '} {layer.own_error:9.2g} "
            f"{layer.error:9.2g}  {layer.module}"
            for layer in self.layers
        ]
        return "\n".join([f"fault: {self.found}", "        own     total  module", *rows])


def locate(artifact: Artifact, reference: Artifact, photos: PhotoSet) -> Search:
    """Look for the first module whose output departs from the reference's.

    Args:
        artifact: a file of any kind.
        reference: the checkpoint that it was made from.
        photos: looked at one by one, those that came out worst in the file's proof first, until a
            fault shows.

    Raises:
        ArtifactError: the file was made from another checkpoint, cannot be opened, or is an FP32
            engine without the ONNX file that it was built from.
    """
    refuse_stranger(artifact, reference)
    preprocess = reference.manifest.preprocess
    network = specialised(network_from_artifact(reference), preprocess.size_hw)
    frames = _frames(artifact, photos)
    looked_in: list[str] = []
    layers: list[Layer] = []
    for where, precision, source in _sources(artifact, network):
        looked_in.append(where)
        limit = OWN_ERROR[precision]
        for name, frame in frames:
            layers = compare_layers(network, frame, source(frame))
            if found := first_departure(layers, limit):
                located = replace(found, photo=name, where=where)
                return Search(tuple(looked_in), located, tuple(layers))
    return Search(tuple(looked_in), None, tuple(layers))


def first_departure(layers: Sequence[Layer], limit: float) -> Located | None:
    """The first layer that is not finite, or adds an error beyond the limit."""
    for before, layer in pairwise([None, *layers]):
        if layer is not None and not (layer.is_finite and layer.own_error <= limit):
            kind = "departs" if layer.is_finite else "not finite"
            return Located(layer.module, layer.own_error, limit, before, kind, "", "")
    return None


def _frames(artifact: Artifact, photos: PhotoSet) -> list[tuple[str, Rgb]]:
    """Names and frames, those that came out worst in the file's proof first."""
    proof = artifact.manifest.proof
    rank = {photo.name: place for place, photo in enumerate(proof.worst if proof else ())}
    ordered = sorted(photos.photos, key=lambda photo: rank.get(photo.name, len(rank)))
    preprocess = artifact.manifest.preprocess
    return [(photo.name, frame_from_photo(photo.read_rgb(), preprocess)) for photo in ordered]


def _sources(artifact: Artifact, network: FlowerNet) -> Iterator[tuple[str, Precision, _Source]]:
    """What can be looked into instead of, or beside, the file: its name, precision and values."""
    manifest = artifact.manifest
    graph = _graph_of(artifact)
    is_half = manifest.precision is Precision.FP16
    if graph is None and not is_half and manifest.kind is not Kind.CHECKPOINT:
        raise ArtifactError(
            f"{artifact.path}: nobody sees into a file of kind {manifest.kind}, and the ONNX file "
            "that it was built from is not beside it. Copy it here, or locate the fault in an ONNX "
            "export of the checkpoint."
        )
    if manifest.kind is Kind.CHECKPOINT:
        # Its weights may be stored in half.
        stored = specialised(network_from_artifact(artifact), manifest.preprocess.size_hw)
        yield artifact.path.name, Precision.FP16, partial(values_of_network, stored)
    if graph is not None:
        where = f"{graph.path.name} in ONNX Runtime on the CPU"
        if graph is not artifact:
            where += f", since nobody sees into {artifact.path.name}, built from it"
        yield where, graph.manifest.precision, _onnx_source(graph, network)
    if is_half:
        half = emulated_half_from_network(network, manifest.keep_fp32, lets_overflow=True)
        yield "half emulated in PyTorch", Precision.FP16, partial(values_of_network, half)


def _graph_of(artifact: Artifact) -> Artifact | None:
    """The file itself, or the ONNX file beside it that it was built from."""
    if artifact.manifest.kind is Kind.ONNX:
        return artifact
    for parent in artifact.manifest.parents:
        path = artifact.path.with_name(parent.name)
        if parent.kind is Kind.ONNX and path.is_file():
            graph = open_artifact(path)
            return graph if graph.manifest.sha256 == parent.sha256 else None
    return None


def _onnx_source(artifact: Artifact, network: FlowerNet) -> _Source:
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
