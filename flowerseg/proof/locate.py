"""Where the fault is: the first module whose output departs from the reference's.

A file that fails its proof is taken apart on its own photos. Where its inside cannot be seen, as
in an engine, the ONNX file that it was built from is taken instead, and where half was not really
executed, emulated half too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from flowerseg.arrays import Rgb
from flowerseg.artifact import Artifact, Kind, Precision
from flowerseg.checkpoint import network_from_artifact
from flowerseg.data import PhotoSet
from flowerseg.errors import ArtifactError
from flowerseg.half import emulated_half_from_network
from flowerseg.model import FlowerNet, specialised
from flowerseg.preprocess import frame_from_photo
from flowerseg.proof.emulation import emulated_int8
from flowerseg.proof.inside import Source, graph_of, onnx_source
from flowerseg.proof.layers import Layer, compare_layers, values_of_network
from flowerseg.proof.limits import limits_of
from flowerseg.proof.prove import refuse_stranger

# A module's own error, in units of its output's spread, does not grow with depth, so that one
# number does for all modules. Highest of 154 modules on four photos, of correct exports of a
# trained MobileNetV3 and of the tests' random one, whose squeeze-and-excitation gates hardly vary
# and so show rounding most: FP32 9e-7 and 3e-6, FP16 0.003 and 0.016 (emulated half the same); the
# median is 1e-7 and 3e-4. Each limit is thrice the highest or more. INT8 has its own in `LIMITS`.
OWN_ERROR: dict[Precision, float] = {Precision.FP32: 1e-4, Precision.FP16: 0.05}


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
    for place in _places(artifact, network):
        looked_in.append(place.name)
        for name, frame in frames:
            layers = compare_layers(place.right, frame, place.source(frame))
            if found := first_departure(layers, place.limit):
                located = replace(found, photo=name, where=place.name)
                return Search(tuple(looked_in), located, tuple(layers))
    return Search(tuple(looked_in), None, tuple(layers))


def first_departure(layers: Sequence[Layer], limit: float) -> Located | None:
    """The first layer that is not finite, or adds an error beyond the limit."""
    for before, layer in pairwise([None, *layers]):
        if layer is not None and layer.departs(limit):
            kind = "departs" if layer.is_finite else "not finite"
            own_limit = layer.limit_from(limit)
            return Located(layer.module, layer.own_error, own_limit, before, kind, "", "")
    return None


def _frames(artifact: Artifact, photos: PhotoSet) -> list[tuple[str, Rgb]]:
    """Names and frames, those that came out worst in the file's proof first."""
    proof = artifact.manifest.proof
    rank = {photo.name: place for place, photo in enumerate(proof.worst if proof else ())}
    ordered = sorted(photos.photos, key=lambda photo: rank.get(photo.name, len(rank)))
    preprocess = artifact.manifest.preprocess
    return [(photo.name, frame_from_photo(photo.read_rgb(), preprocess)) for photo in ordered]


@dataclass(frozen=True)
class _Place:
    """What can be looked into instead of, or beside, a file."""

    name: str
    source: Source
    right: FlowerNet  # what its modules should give
    limit: float  # of a module's own error


def _places(artifact: Artifact, network: FlowerNet) -> Iterator[_Place]:
    manifest = artifact.manifest
    graph = graph_of(artifact)
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
        source = partial(values_of_network, stored)
        yield _Place(artifact.path.name, source, network, OWN_ERROR[Precision.FP16])
    if graph is not None:
        where = f"{graph.path.name} in ONNX Runtime on the CPU"
        if graph is not artifact:
            where += f", since nobody sees into {artifact.path.name}, built from it"
        yield _place_of_graph(graph, network, where)
    if is_half:
        half = emulated_half_from_network(network, manifest.keep_fp32, lets_overflow=True)
        source = partial(values_of_network, half)
        yield _Place("half emulated in PyTorch", source, network, OWN_ERROR[Precision.FP16])


def _place_of_graph(graph: Artifact, network: FlowerNet, where: str) -> _Place:
    manifest, source = graph.manifest, onnx_source(graph, network)
    if manifest.precision is not Precision.INT8:
        return _Place(where, source, network, OWN_ERROR[manifest.precision])
    limit = limits_of(manifest.precision, manifest.float_type).module_difference
    return _Place(where, source, emulated_int8(graph, network), limit)
