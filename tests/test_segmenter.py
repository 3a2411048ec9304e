"""Photos in, masks out: sizes, thresholds, and models that may not be opened."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import flowerseg
from flowerseg import backends
from flowerseg.arrays import SizeHW
from flowerseg.artifact import Artifact, Batch, open_artifact, rewrite_manifest
from flowerseg.backends import SessionOptions
from flowerseg.backends.null import NullBackend
from flowerseg.backends.pytorch import PyTorchBackend
from flowerseg.errors import ArtifactError, BackendUnavailable
from flowerseg.model import FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Proof
from flowerseg.segmenter import Segmenter

FRAME = Preprocess((64, 64))


@pytest.fixture(scope="module")
def segmenter(small_network: FlowerNet) -> Segmenter:
    return Segmenter(PyTorchBackend(small_network, (64, 64), "cpu"), FRAME)


def _noise(size_hw: SizeHW) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 500), (511, 513), (2000, 1), (64, 64), (65, 63)])
def test_mask_has_the_size_of_its_photo(segmenter: Segmenter, size_hw: SizeHW) -> None:
    rgb = _noise(size_hw)
    mask = segmenter.segment(rgb)
    assert mask.shape == size_hw
    assert mask.dtype == np.bool_
    assert segmenter.probability(rgb).shape == size_hw


def test_photos_of_different_sizes_in_one_batch_get_the_masks_they_get_alone(
    segmenter: Segmenter,
) -> None:
    photos = [_noise((40, 90)), _noise((90, 40))[::-1], _noise((64, 64))]
    masks = segmenter.segment_batch(photos)
    assert [mask.shape for mask in masks] == [(40, 90), (90, 40), (64, 64)]
    for rgb, mask in zip(photos, masks, strict=True):
        assert (segmenter.segment(rgb) == mask).mean() > 0.999


@pytest.mark.parametrize(
    ("threshold", "level", "is_flower"),
    [(0.5, 128, True), (0.5, 127, False), (0.25, 64, True), (0.25, 63, False)],
)
def test_pixel_is_flower_from_the_threshold_on(
    threshold: float, level: int, is_flower: bool
) -> None:
    segmenter = Segmenter(NullBackend((64, 64)), FRAME, threshold)
    rgb = np.full((10, 20, 3), level, np.uint8)  # green is the null backend's answer
    assert (segmenter.segment(rgb) == is_flower).all()
    assert (segmenter.probability(rgb) == level).all()


def test_backend_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes frames of \(32, 32\)"):
        Segmenter(NullBackend((32, 32)), FRAME)


def test_opened_model_brings_its_preprocess_and_threshold(
    fp32_onnx: Artifact, copied: Callable[[Path], Path]
) -> None:
    artifact = open_artifact(copied(fp32_onnx.path))
    rewrite_manifest(artifact, threshold=0.25)
    with flowerseg.Segmenter.open(str(artifact.path), device="cpu") as segmenter:
        assert segmenter.preprocess == FRAME
        assert segmenter.threshold == 0.25
        assert segmenter.artifact is not None
    with Segmenter.open(artifact.path, device="cpu", threshold=0.75) as segmenter:
        assert segmenter.threshold == 0.75


def test_unproven_model_is_opened_only_on_request(
    fp32_onnx: Artifact, copied: Callable[[Path], Path]
) -> None:
    artifact = open_artifact(copied(fp32_onnx.path))
    rewrite_manifest(artifact, proof=None, further_proofs=())
    with pytest.raises(ArtifactError, match="never run"):
        Segmenter.open(artifact.path, device="cpu")
    with Segmenter.open(artifact.path, device="cpu", allow_unproven=True) as segmenter:
        assert segmenter.segment(_noise((10, 10))).shape == (10, 10)


def proofs(**status: Literal["proved", "failed"]) -> dict[str, Any]:
    """Fields of a manifest: a proof in each runtime, with its outcome."""
    first, *further = (
        Proof(how, "planted", runtime=name, device="cpu") for name, how in status.items()
    )
    return {"proof": first, "further_proofs": tuple(further)}


@pytest.mark.parametrize(
    ("proved", "runtime"),
    [
        (proofs(onnxruntime="proved", openvino="proved"), "openvino"),
        (proofs(onnxruntime="proved"), "onnxruntime"),
        (proofs(onnxruntime="proved", openvino="failed"), "onnxruntime"),
        (proofs(onnxruntime="failed", openvino="proved"), "openvino"),
    ],
    ids=["both", "one", "the faster one failed", "the first one failed"],
)
def test_auto_is_the_fastest_runtime_that_the_file_was_proved_in(
    fp32_onnx: Artifact, copied: Callable[[Path], Path], proved: dict[str, Any], runtime: str
) -> None:
    artifact = rewrite_manifest(open_artifact(copied(fp32_onnx.path)), **proved)
    with Segmenter.open(artifact.path, device="cpu") as segmenter:
        assert segmenter.info.runtime == runtime


def test_runtime_that_is_not_installed_is_passed_over(
    fp32_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "openvino" else name)
    with Segmenter.open(fp32_onnx.path, device="cpu") as segmenter:
        assert segmenter.info.runtime == "onnxruntime"


def test_runtime_by_name_is_refused_where_the_file_was_not_proved_in_it(
    fp32_onnx: Artifact, copied: Callable[[Path], Path]
) -> None:
    artifact = rewrite_manifest(
        open_artifact(copied(fp32_onnx.path)), **proofs(onnxruntime="proved")
    )
    with pytest.raises(
        ArtifactError,
        match=r"not proved in openvino \(its proof was never run\).*"
        "--runtime openvino --device cpu --reference",
    ):
        Segmenter.open(artifact.path, device="cpu", runtime="openvino")


def test_larger_batch_than_was_proved_is_refused(fp32_onnx: Artifact) -> None:
    frames = [_noise((64, 64)) for _ in range(17)]
    with Segmenter.open(fp32_onnx.path, device="cpu") as segmenter:
        assert segmenter.info.batch == Batch(1, 8, 16)
        assert segmenter.infer(frames[:16]).shape == (16, 64, 64)
        with pytest.raises(
            ValueError, match=r"a batch of 17; .* proved with up to 16\. .*-batch 17"
        ):
            segmenter.segment_batch(frames)
    with Segmenter.open(fp32_onnx.path, device="cpu", allow_unproven=True) as segmenter:
        assert segmenter.info.batch is None
        assert len(segmenter.segment_batch(frames)) == 17


def test_proof_on_the_cpu_is_none_for_a_gpu(
    fp16_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowerseg.segmenter.kind_of_device", lambda *_: "cuda")
    monkeypatch.setattr("flowerseg.backends.kind_of_device", lambda *_: "cuda")
    with pytest.raises(ArtifactError) as refused:
        Segmenter.open(fp16_onnx.path, runtime="onnxruntime")
    assert "not proved (it was proved on cpu (half emulated), not on cuda)" in str(refused.value)
    assert f"flowerseg-verify {fp16_onnx.path} --device cuda --reference" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "streams", "reason"),
    [
        ({"version": "1.0.0"}, 1, r"proved in version 1\.0\.0 of onnxruntime, not in \d+"),
        ({"streams": 1}, 2, "proved with one batch at a time, not with 2"),
        ({"streams": 2}, 1, ""),
    ],
)
def test_file_is_refused_where_it_was_opened_otherwise_than_it_was_proved(
    fp32_onnx: Artifact,
    copied: Callable[[Path], Path],
    changes: dict[str, Any],
    streams: int,
    reason: str,
) -> None:
    artifact = open_artifact(copied(fp32_onnx.path))
    assert artifact.manifest.proof is not None
    rewrite_manifest(artifact, proof=dataclasses.replace(artifact.manifest.proof, **changes))

    def opened(*, allow_unproven: bool) -> Segmenter:
        return Segmenter.open(
            artifact.path,
            device="cpu",
            runtime="onnxruntime",
            options=SessionOptions(streams=streams),
            allow_unproven=allow_unproven,
        )

    if reason:
        with pytest.raises(ArtifactError, match=reason):
            opened(allow_unproven=False)
    with opened(allow_unproven=True) as segmenter:
        assert bool(segmenter.why_not_proved) == bool(reason)
    if not reason:
        opened(allow_unproven=False).close()


def test_compiled_checkpoint_is_not_the_reference(reference: Artifact) -> None:
    with pytest.raises(ArtifactError, match="not proved in torch-compile"):
        Segmenter.open(reference.path, device="cpu", runtime="torch-compile")


def test_backend_is_closed_at_the_end_of_the_block() -> None:
    closed = []

    class Closing(NullBackend):
        def close(self) -> None:
            closed.append(True)

    with pytest.raises(KeyError), Segmenter(Closing((64, 64)), FRAME):
        raise KeyError
    assert closed == [True]


def test_info_is_the_backends() -> None:
    backend = NullBackend((64, 64), batch=Batch(1, 2, 4))
    assert Segmenter(backend, FRAME).info == backend.info
    assert dataclasses.asdict(backend.info)["batch"] == {"min": 1, "opt": 2, "max": 4}


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 2, float("nan")])
def test_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"threshold must lie between 0 and 1, not {threshold}"):
        Segmenter(NullBackend((64, 64)), FRAME, threshold)


def test_unknown_device_and_runtime_are_one_sentence(reference: Artifact) -> None:
    for device in ("gpu", "cuda:x", ""):
        with pytest.raises((BackendUnavailable, ValueError)) as raised:
            Segmenter.open(reference.path, device=device)
        assert "\n" not in str(raised.value)
    with pytest.raises(BackendUnavailable, match="tensorrt does not open files of kind checkpoint"):
        Segmenter.open(reference.path, device="cpu", runtime="tensorrt")
