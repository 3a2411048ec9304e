"""An INT8 file compared with an emulation of its arithmetic in PyTorch, with its own scales.

The emulation compared with the reference gives the cost of quantisation. The file compared with the
emulation shows faults, in two ways. First, each module of the file must give what the emulation
gives for the same input; where FP32 rounds differently, a value may fall to the next level. This
finds a wrong scale, zero point, weight or bias in a single module. Second, over whole photos the
file must agree with the reference about as well as its emulation does. The masks of file and
emulation differ, because a level that differs early in the network changes many values at its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flowerseg.artifact import Artifact
from flowerseg.backends.pytorch import PyTorchBackend
from flowerseg.checkpoint import network_from_artifact
from flowerseg.errors import ArtifactError
from flowerseg.model import FlowerNet, specialised
from flowerseg.proof.compare import Expected, compare, distance_from_half, expect_frame
from flowerseg.proof.inside import graph_of, onnx_source, quantisation_of
from flowerseg.proof.layers import Layer, compare_layers
from flowerseg.proof.passes import Parity, stressed_of
from flowerseg.quantised import emulated_int8_from_network
from flowerseg.segmenter import Segmenter

_PHOTOS_INSIDE = 4  # photos on which modules are compared: a wrong constant shows on any


@dataclass(frozen=True)
class Int8Emulation:
    """What the emulation gave, and the modules of the file beside it."""

    expected: list[Expected]  # the photos, with the emulation's results
    parity: Parity  # the emulation beside the reference
    layers: list[Layer]  # of the file, on some of the photos


def emulate_int8(
    artifact: Artifact,
    reference: Artifact,
    expected: Sequence[Expected],
    stress: Sequence[Expected],
) -> Int8Emulation:
    """Run the emulation of a quantised file on photos, and compare the modules of the file with it.

    Args:
        artifact: the file; of an engine the ONNX file beside it is taken.
        reference: the checkpoint that it was made from.
        expected: the photos, with the reference's results.
        stress: stress frames, with the reference's results.

    Raises:
        ArtifactError: the ONNX file is not beside its engine, or does not fit the checkpoint.
    """
    graph = graph_of(artifact)
    if graph is None:
        raise ArtifactError(
            f"{artifact.path}: the ONNX file that it was built from is not beside it, and holds "
            "the scales that the proof of INT8 needs. Copy it here."
        )
    preprocess = reference.manifest.preprocess
    network = specialised(network_from_artifact(reference), preprocess.size_hw)
    emulated = emulated_int8(graph, network)
    telling = sorted(expected, key=distance_from_half)[:_PHOTOS_INSIDE]
    source = onnx_source(graph, network)
    layers = [
        layer
        for item in telling
        for layer in compare_layers(emulated, item.frame, source(item.frame))
    ]
    backend = PyTorchBackend(emulated, preprocess.size_hw, "cpu")
    with Segmenter(backend, preprocess, reference.manifest.threshold) as segmenter:
        own = [expect_frame(segmenter, item.name, item.frame, item.labels) for item in expected]
        foregrounds = [segmenter.infer([item.frame])[0] for item in stress]
    parity = Parity(
        alone=[
            compare(item, each.foreground, each.mask)
            for item, each in zip(expected, own, strict=True)
        ],
        stressed=[stressed_of(item, each) for item, each in zip(stress, foregrounds, strict=True)],
    )
    return Int8Emulation(own, parity, layers)


def emulated_int8(graph: Artifact, network: FlowerNet) -> FlowerNet:
    """The network with the arithmetic of an ONNX file.

    Args:
        graph: the quantised file.
        network: in FP32, made for its frames by `model.specialised`.

    Raises:
        ArtifactError: the file quantises what the network does not compute.
    """
    quantisation = quantisation_of(graph)
    try:
        return emulated_int8_from_network(network, quantisation)
    except ValueError as error:
        raise ArtifactError(
            f"{graph.path} does not fit its checkpoint: {error}. Export it again."
        ) from error
