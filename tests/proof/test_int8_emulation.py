"""INT8 is held to its own arithmetic: planted faults are found, and correct files pass."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from flowerseg.artifact import Artifact, Kind, Precision, publish
from flowerseg.data import PhotoSet
from flowerseg.errors import ArtifactError
from flowerseg.model import FlowerNet, specialised
from flowerseg.proof import prove
from flowerseg.proof.emulation import emulate_int8, emulated_int8
from flowerseg.proof.inside import onnx_source, quantisation_of
from flowerseg.proof.layers import OUTPUT, Call, compare_layers
from flowerseg.proofrecord import FaultKind, Limits, fault_text
from flowerseg.quantised import Levels, Quantisation, emulated_int8_from_network
from flowerseg_export.graph import onnx_from_network
from flowerseg_export.int8 import Flavour, int8_from_onnx

SIZE_HW = (64, 64)

Spoil = Callable[[onnx.ModelProto], None]

HIDDEN = "backbone.2.block.0.0"
LAST = "classifier.1"


def _constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor).copy()


def _write(model: onnx.ModelProto, name: str, content: np.ndarray) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(content, name))


def zero_point_of_a_value_read_one_too_high(model: onnx.ModelProto) -> None:
    name = "backbone.2.block.0.2/Relu_zero_point"
    other = _constant(model, name) + 1
    model.graph.initializer.append(numpy_helper.from_array(other.astype(np.uint8), "other"))
    (node,) = (
        n for n in model.graph.node if n.name == "backbone.2.block.0.2/Relu_DequantizeLinear"
    )
    node.input[2] = "other"


def zero_point_of_weights_one_too_high(model: onnx.ModelProto) -> None:
    name = f"{HIDDEN}.weight_zero_point"
    _write(model, name, _constant(model, name) + np.int8(1))


def bias_dropped(model: onnx.ModelProto) -> None:
    name = f"{LAST}.bias_quantized"
    _write(model, name, np.zeros_like(_constant(model, name)))


def weights_too_large_by_a_tenth(model: onnx.ModelProto) -> None:
    name = f"{HIDDEN}.weight_scale"
    _write(model, name, _constant(model, name) * np.float32(1.1))


def value_read_too_large_by_a_tenth(model: onnx.ModelProto) -> None:
    name = "classifier.3/Relu_scale"
    larger = _constant(model, name) * np.float32(1.1)
    model.graph.initializer.append(numpy_helper.from_array(larger, "larger"))
    (node,) = (n for n in model.graph.node if n.name == "classifier.3/Relu_DequantizeLinear")
    node.input[1] = "larger"


def half_a_pixel_of_shift(model: onnx.ModelProto) -> None:
    """Of the frame: places of the enlarged map without the half that centres them."""
    (name,) = (t.name for t in model.graph.initializer if t.name == "Resize_rows:0")
    new, old = _constant(model, name).shape
    places = (np.arange(new) * old / new - 0.5).clip(0, old - 1)
    distances = np.abs(places[:, None] - np.arange(old))
    _write(model, name, (1 - distances).clip(min=0).astype(np.float32))


def scaled_by_255(model: onnx.ModelProto) -> None:
    (product,) = (node for node in model.graph.node if node.name == "Mul")
    _write(model, product.input[1], np.array(255, np.float32))


def two_channels_swapped(model: onnx.ModelProto) -> None:
    name = f"{HIDDEN}.weight_quantized"
    levels = _constant(model, name)
    levels[[0, 1]] = levels[[1, 0]]
    _write(model, name, levels)


def _name(each: object) -> str:
    return getattr(each, "__name__", "")


FAULTS = [
    (zero_point_of_a_value_read_one_too_high, HIDDEN),
    (zero_point_of_weights_one_too_high, HIDDEN),
    (bias_dropped, LAST),
    (weights_too_large_by_a_tenth, HIDDEN),
    (value_read_too_large_by_a_tenth, LAST),
    (half_a_pixel_of_shift, OUTPUT),
    (scaled_by_255, OUTPUT),
    (two_channels_swapped, HIDDEN),
]


def _spoilt(artifact: Artifact, path: Path, spoil: Spoil) -> Artifact:
    model = onnx.load(artifact.path)
    spoil(model)
    return publish(path, artifact.manifest, lambda file: onnx.save(model, str(file)))


@pytest.mark.parametrize(("spoil", "module"), FAULTS, ids=_name)
def test_fault_of_an_int8_file_is_found_in_its_module(
    int8_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    tmp_path: Path,
    spoil: Spoil,
    module: str,
) -> None:
    bad = _spoilt(int8_onnx, tmp_path / "bad.onnx", spoil)
    proof = prove(bad, reference, val_photos.limited(2), device="cpu").proof
    (fault,) = (fault for fault in proof.faults if fault.kind == FaultKind.MODULE)
    assert fault.module.startswith(module)
    assert fault.found > 2 * fault.limit
    assert proof.status == "failed"
    assert f"{fault.module} departs by" in proof.why


def test_correct_int8_file_is_far_from_its_checkpoint_and_near_its_emulation(
    int8_onnx: Artifact, reference: Artifact, val_photos: PhotoSet
) -> None:
    proof = int8_onnx.manifest.proof
    assert proof is not None
    assert (proof.status, proof.faults) == ("proved", ())
    assert proof.limits is not None
    assert proof.module_difference is not None
    assert 0 < proof.module_difference < 0.6 * proof.limits.module_difference
    # Quantisation costs as much by one way as by the other.
    assert proof.quantised_agreement_iou is not None
    assert proof.quantised_agreement_iou == pytest.approx(proof.alone_agreement_iou, abs=0.003)
    assert proof.quantised_agreement_iou < 0.9999


def test_emulation_gives_what_onnxruntime_does_node_by_node(
    int8_onnx: Artifact, small_network: FlowerNet, frames: np.ndarray
) -> None:
    """An independent implementation of the same arithmetic, but for where FP32 rounds."""
    network = specialised(small_network, SIZE_HW)
    source = onnx_source(int8_onnx, network)
    emulated = emulated_int8(int8_onnx, network)
    for frame in frames[:2]:
        layers = compare_layers(emulated, frame, source(frame))
        assert len(layers) > 120
        errors = sorted(layer.own_error for layer in layers)
        assert errors[len(errors) // 2] < 1e-4
        # Without rounding every module of the plain network departs.
        plain = sorted(layer.own_error for layer in compare_layers(network, frame, source(frame)))
        assert plain[len(plain) // 2] > 0.005


def test_module_kept_in_floats_reads_what_is_not_rounded(
    int8_onnx: Artifact, small_network: FlowerNet, frames: np.ndarray, tmp_path: Path
) -> None:
    """The graph for TensorRT lets it read the value before the pair that others read."""
    network = specialised(small_network, SIZE_HW)
    kept = "classifier.0.convs.0.0"
    model = int8_from_onnx(
        onnx_from_network(network, SIZE_HW), list(frames[:4]), Flavour.TENSORRT, keep_fp32=[kept]
    )
    manifest = dataclasses.replace(int8_onnx.manifest, quantised_for="tensorrt")
    artifact = publish(tmp_path / "kept.onnx", manifest, lambda file: onnx.save(model, str(file)))
    quantisation = quantisation_of(artifact)
    assert quantisation.unrounded[f"{kept}/Conv"][0] in quantisation.values
    source = onnx_source(artifact, network)
    layers = compare_layers(emulated_int8(artifact, network), frames[0], source(frames[0]))
    assert max(layer.own_error for layer in layers) < 0.01
    forgotten = dataclasses.replace(quantisation, unrounded={})
    rounded = compare_layers(
        emulated_int8_from_network(network, forgotten), frames[0], source(frames[0])
    )
    (wrong,) = (layer for layer in rounded if layer.module == kept)
    assert wrong.own_error > 1e-3


def test_value_is_rounded_to_the_levels_of_its_scale(small_network: FlowerNet) -> None:
    network = specialised(small_network, SIZE_HW)
    levels = Levels(step=0.5, zero_point=3, lowest=0, highest=255)
    quantisation = Quantisation({"backbone.0.2/HardSwish": levels}, {}, {})
    seen: list[torch.Tensor] = []
    emulated = emulated_int8_from_network(network, quantisation)
    emulated.get_submodule("backbone.0.2").register_forward_hook(
        lambda _, __, output: seen.append(output)
    )
    exact: list[torch.Tensor] = []
    network.get_submodule("backbone.0.2").register_forward_hook(
        lambda _, __, output: exact.append(output.clone())
    )
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, *SIZE_HW, 3), np.uint8))
    with torch.inference_mode():
        network(images)
        emulated(images)
    expected = 0.5 * (np.rint(exact[0].numpy() / 0.5) + 3).clip(0, 255) - 1.5
    np.testing.assert_allclose(seen[0].numpy(), expected)


def test_file_that_rounds_what_the_network_does_not_compute_is_refused(
    int8_onnx: Artifact, reference: Artifact, val_photos: PhotoSet, tmp_path: Path
) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = name.replace("classifier.3/Relu", "classifier.9/Relu")

    bad = _spoilt(int8_onnx, tmp_path / "bad.onnx", rename)
    for tensor in (model := onnx.load(bad.path)).graph.initializer:
        tensor.name = tensor.name.replace("classifier.3/Relu", "classifier.9/Relu")
    bad = publish(bad.path, int8_onnx.manifest, lambda file: onnx.save(model, str(file)))
    with pytest.raises(ArtifactError, match=r"computes no classifier\.9/Relu.*Export it again"):
        prove(bad, reference, val_photos.limited(1), device="cpu")


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_scale_that_is_no_positive_number_is_refused(
    int8_onnx: Artifact, tmp_path: Path, step: float
) -> None:
    name = "classifier.3/Relu_scale"
    bad = _spoilt(
        int8_onnx, tmp_path / "bad.onnx", lambda model: _write(model, name, np.float32(step))
    )
    with pytest.raises(ArtifactError, match=r"classifier\.3/Relu_scale is no positive number"):
        quantisation_of(bad)


def _without_zero_point(model: onnx.ModelProto) -> None:
    (node,) = (n for n in model.graph.node if n.name == "classifier.3/Relu_QuantizeLinear")
    del node.input[2:]


def _with_many_zero_points(model: onnx.ModelProto) -> None:
    _write(model, "classifier.3/Relu_zero_point", np.zeros(256, np.uint8))


@pytest.mark.parametrize("spoil", [_without_zero_point, _with_many_zero_points])
def test_zero_point_that_export_does_not_write_is_refused(
    int8_onnx: Artifact, tmp_path: Path, spoil: Spoil
) -> None:
    bad = _spoilt(int8_onnx, tmp_path / "bad.onnx", spoil)
    with pytest.raises(ArtifactError, match=r"classifier\.3/Relu_QuantizeLinear has no single"):
        quantisation_of(bad)


def test_number_of_scales_that_is_not_that_of_the_channels_is_refused(
    int8_onnx: Artifact, small_network: FlowerNet, tmp_path: Path
) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        _write(model, f"{LAST}.weight_scale", np.ones(3, np.float32))

    bad = _spoilt(int8_onnx, tmp_path / "bad.onnx", spoil)
    with pytest.raises(ArtifactError, match=r"classifier\.1\.weight has 256 channels, not 3"):
        emulated_int8(bad, specialised(small_network, SIZE_HW))


def test_engine_without_the_onnx_file_of_its_scales_is_refused(
    int8_onnx: Artifact, reference: Artifact, tmp_path: Path
) -> None:
    manifest = dataclasses.replace(int8_onnx.manifest, kind=Kind.TENSORRT)
    engine = Artifact(tmp_path / "small.engine", manifest)
    with pytest.raises(ArtifactError, match=r"holds the scales .* Copy it here"):
        emulate_int8(engine, reference, [], [])


def test_what_quantisation_costs_is_told_from_a_fault(
    int8_onnx: Artifact, reference: Artifact, val_photos: PhotoSet
) -> None:
    own = int8_onnx.manifest.proof
    assert own is not None
    assert own.limits is not None
    tight: Limits = dataclasses.replace(own.limits, agreement_iou=0.99999)
    proof = prove(int8_onnx, reference, val_photos, device="cpu", limits=tight).proof
    (fault,) = proof.faults
    assert (fault.kind, fault.is_cost) == (FaultKind.AGREEMENT, True)
    assert fault_text(fault).endswith("(quantisation itself costs that)")


def test_output_of_the_emulation_is_compared_too(
    int8_onnx: Artifact, small_network: FlowerNet, frames: np.ndarray
) -> None:
    network = specialised(small_network, SIZE_HW)
    values = onnx_source(int8_onnx, network)(frames[0])
    (layer,) = (
        layer
        for layer in compare_layers(emulated_int8(int8_onnx, network), frames[0], values)
        if layer.module == OUTPUT
    )
    assert Call(OUTPUT) in values
    assert layer.own_error < 1e-3


def test_precision_of_other_files_has_no_emulation(fp32_onnx: Artifact) -> None:
    proof = fp32_onnx.manifest.proof
    assert proof is not None
    assert fp32_onnx.manifest.precision is Precision.FP32
    assert (proof.quantised_agreement_iou, proof.module_difference) == (None, None)
