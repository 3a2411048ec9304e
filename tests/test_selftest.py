"""The self-test: every fault of a photo's path keeps a model from opening, rounding does not."""

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import flowerseg.images
from flowerseg.arrays import Rgb, SizeHW
from flowerseg.artifact import (
    Artifact,
    Kind,
    Manifest,
    Precision,
    SelfTest,
    manifest_path,
    open_artifact,
    read_manifest,
    rewrite_manifest,
)
from flowerseg.backends.null import NullBackend
from flowerseg.data import open_photos
from flowerseg.errors import ArtifactError
from flowerseg.images import decode_rgb, encode_jpeg, encode_png
from flowerseg.preprocess import Preprocess
from flowerseg.proof import LIMITS, prove
from flowerseg.proof.painted import painted_jpeg, selftest_from_reference, with_selftest
from flowerseg.proofrecord import Limits
from flowerseg.segmenter import Segmenter
from flowerseg.selftest import TOLERANCES, Difference, difference, require_same_map
from flowerseg.shipped import shipped_model
from flowerseg_export import export as export_module
from flowerseg_export.config import ExportConfig
from flowerseg_export.export import export_model

FRAME_HW = (224, 224)
DECODED = cv2.imdecode
RESIZED = cv2.resize


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    """The shipped model as ONNX; a self-test needs a network that knows flowers."""
    folder = tmp_path_factory.mktemp("exported")
    paths = {}
    for precision in (Precision.FP32, Precision.FP16):
        out = folder / f"{precision}.onnx"
        export_model(ExportConfig(shipped_model(), out, precision=precision, device="cpu"))
        paths[precision] = out
    return paths


def _linear(rgb: Rgb, size_wh: SizeHW, interpolation: int) -> Rgb:
    return np.asarray(RESIZED(rgb, size_wh, interpolation=cv2.INTER_LINEAR))


def _nearest(rgb: Rgb, size_wh: SizeHW, interpolation: int) -> Rgb:
    """Without OpenCV: the sample at the left top corner of each place."""
    rows = np.arange(size_wh[1]) * rgb.shape[0] // size_wh[1]
    columns = np.arange(size_wh[0]) * rgb.shape[1] // size_wh[0]
    return rgb[rows][:, columns]


def _letterboxed(rgb: Rgb, size_wh: SizeHW, interpolation: int) -> Rgb:
    scale = min(size_wh[0] / rgb.shape[1], size_wh[1] / rgb.shape[0])
    inner = round(rgb.shape[1] * scale), round(rgb.shape[0] * scale)
    framed = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    framed[: inner[1], : inner[0]] = RESIZED(rgb, inner, interpolation=cv2.INTER_AREA)
    return framed


def _bgr(data: np.ndarray, flags: int) -> Rgb:
    return np.ascontiguousarray(DECODED(data, flags)[..., ::-1])


def _half_scale(data: np.ndarray, flags: int) -> Rgb:
    return np.ascontiguousarray(DECODED(data, cv2.IMREAD_REDUCED_COLOR_2)[..., ::-1])


def _lying(pixels: Rgb, _: int) -> Rgb:
    return np.ascontiguousarray(pixels)


FAULTS: dict[str, tuple[str, Callable[..., Rgb]]] = {
    "bilinear without antialiasing": ("resize", _linear),
    "nearest": ("resize", _nearest),
    "letterboxed": ("resize", _letterboxed),
    "BGR": ("imdecode", _bgr),
    "decoded at half scale": ("imdecode", _half_scale),
    "EXIF ignored": ("_turned", _lying),
}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("fault", FAULTS)
def test_model_does_not_open_where_photos_go_another_way(
    fault: str,
    precision: Precision,
    exported: dict[Precision, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, faulty = FAULTS[fault]
    # Only photos: the stored map is a grey PNG and goes through the same decoder.
    owner = flowerseg.images if step == "_turned" else flowerseg.images.cv2
    monkeypatch.setattr(owner, step, _on_photos(step, faulty))
    with pytest.raises(ArtifactError, match=r"the self-test differs.*levels of 256.*allowed"):
        Segmenter.open(exported[precision], device="cpu", allow_unproven=True)


def _on_photos(step: str, faulty: Callable[..., Rgb]) -> Callable[..., Rgb]:
    def patched(pixels: np.ndarray, *arguments: object, **named: object) -> Rgb:
        is_png = step == "imdecode" and pixels[:4].tobytes() == b"\x89PNG"
        return DECODED(pixels, *arguments) if is_png else faulty(pixels, *arguments, **named)

    return patched


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_correct_export_opens_with_the_self_test_of_its_checkpoint(
    precision: Precision, exported: dict[Precision, Path]
) -> None:
    path = exported[precision]
    with Segmenter.open(path, device="cpu", allow_unproven=True) as segmenter:
        assert segmenter.artifact is not None
        selftest = segmenter.artifact.manifest.selftest
    assert selftest is not None
    assert selftest == open_artifact(shipped_model()).manifest.selftest


def test_shipped_model_has_a_self_test_and_its_manifest_stays_small() -> None:
    manifest = manifest_path(shipped_model())
    assert read_manifest(manifest).selftest is not None
    assert manifest.stat().st_size < 60_000  # with 27 bytes for each photo that it has seen
    lines = manifest.read_text().splitlines()
    # Photo and map of the self-test, and the signatures, in one line each.
    assert len([line for line in lines if len(line) > 300]) == 3


def test_proof_measures_what_the_self_test_would_refuse(
    exported: dict[Precision, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowerseg.images.cv2, "resize", _linear)
    path = exported[Precision.FP32]
    Segmenter.open(path, device="cpu", allow_unproven=True, is_tested=False).backend.close()


def test_photo_of_the_self_test_is_upright_only_by_its_exif_tag() -> None:
    photo = painted_jpeg(FRAME_HW, seed=0)
    upright = decode_rgb(photo, "photo")
    assert upright.shape == (320, 384, 3)  # 10/7 and 12/7 of the frame
    lying = DECODED(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR_RGB | 128)
    assert lying.shape == (384, 320, 3)
    assert (np.rot90(lying, -1) == upright).all()


def test_stripes_of_the_photo_survive_its_jpeg() -> None:
    rgb = decode_rgb(painted_jpeg(FRAME_HW, seed=0), "photo").astype(float)
    blocks = rgb.reshape(40, 8, 48, 8, 3)
    across = np.cos((2 * np.arange(8) + 1) * 7 * np.pi / 16)
    # Projected on one stripe, each block holds the amplitude of 32 that was painted.
    amplitude = np.einsum("rycxk,x->rck", blocks, across) / 8 / (across @ across)
    assert np.median(amplitude) == pytest.approx(32, abs=8)  # rounded by quality 50


def test_difference_is_the_mean_and_the_largest_in_levels() -> None:
    one = np.array([[0, 255], [10, 10]], np.uint8)
    other = np.array([[255, 255], [10, 9]], np.uint8)
    assert difference(one, other) == Difference(mean=64.0, largest=255)


@pytest.mark.parametrize(
    ("found", "is_beyond"),
    [(Difference(2.5, 48), False), (Difference(2.6, 3), True), (Difference(0.1, 49), True)],
)
def test_mean_and_largest_are_both_limits(found: Difference, is_beyond: bool) -> None:
    assert found.exceeds(TOLERANCES[Precision.FP32]) is is_beyond


def test_map_by_hand_is_what_the_backend_has_to_give(tmp_path: Path) -> None:
    rgb = np.full((96, 80, 3), 100, np.uint8)  # flat and grey: every kernel and JPEG agree
    selftest = SelfTest(
        base64.b64encode(encode_jpeg(rgb)).decode(),
        base64.b64encode(encode_png(np.full((32, 32), 100, np.uint8))).decode(),
    )
    manifest = Manifest(Kind.ONNX, "any", Precision.FP32, Preprocess((32, 32)), selftest=selftest)
    artifact = Artifact(tmp_path / "model.onnx", manifest)
    require_same_map(artifact, NullBackend((32, 32)))  # it answers with the green sample
    darker = base64.b64encode(encode_png(np.full((32, 32), 90, np.uint8))).decode()
    other = dataclasses.replace(manifest, selftest=SelfTest(selftest.photo, darker))
    with pytest.raises(ArtifactError, match=r"is 10\.0 levels .*allowed 2\.5"):
        require_same_map(dataclasses.replace(artifact, manifest=other), NullBackend((32, 32)))


def test_model_that_answers_every_photo_alike_gets_no_self_test() -> None:
    class Constant(NullBackend):
        def download(self) -> np.ndarray:
            return np.full_like(super().download(), 200)

    assert selftest_from_reference(Segmenter(Constant(), Preprocess())) is None


class Counting(NullBackend):
    """Answers with one channel of the frames and counts them."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.count = 0

    def upload(self, images: np.ndarray) -> None:
        self.count += len(images)
        self.images = images

    def download(self) -> np.ndarray:
        return self.images[..., self.channel].copy()


@pytest.mark.parametrize(
    ("channel", "maps"),
    [
        # Red moves by tens of levels with every fault: the first photo's six maps are enough.
        (0, 6),
        # Green is green in BGR too, which all six maps of all six photos cannot help.
        (1, 36),
    ],
)
def test_search_ends_with_the_first_photo_that_tells_enough(channel: int, maps: int) -> None:
    backend = Counting(channel)
    found = selftest_from_reference(Segmenter(backend, Preprocess()))
    assert (found is not None) == (channel == 0)
    assert backend.count == maps


def test_photo_that_hides_the_subtlest_fault_costs_two_maps() -> None:
    class Blind(Counting):
        def download(self) -> np.ndarray:
            return np.full_like(super().download(), 200)

    backend = Blind(0)
    assert selftest_from_reference(Segmenter(backend, Preprocess())) is None
    assert backend.count == 2 * 6  # painted photos


def test_manifest_without_a_self_test_opens_as_before(
    fp32_onnx: Artifact, copied: Callable[[Path], Path]
) -> None:
    path = copied(fp32_onnx.path)
    fields = json.loads(manifest_path(path).read_text())
    del fields["selftest"]
    manifest_path(path).write_text(json.dumps(fields))
    with Segmenter.open(path, device="cpu") as segmenter:
        assert segmenter.artifact is not None
        assert segmenter.artifact.manifest.selftest is None


def test_checkpoint_without_a_self_test_gets_the_same_one_each_time(
    copied: Callable[[Path], Path],
) -> None:
    shipped = open_artifact(copied(shipped_model()))
    older = rewrite_manifest(shipped, selftest=None)
    assert with_selftest(older).manifest.selftest == shipped.manifest.selftest
    assert with_selftest(shipped) is shipped


def test_backend_is_closed_where_the_self_test_differs(
    copied: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    class Closing(NullBackend):
        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("flowerseg.segmenter.open_backends", lambda *_: (Closing(),))
    with pytest.raises(ArtifactError, match="the self-test differs"):
        Segmenter.open(copied(shipped_model()), device="cpu")
    assert closed == [True]


@pytest.mark.slow
def test_proved_int8_file_is_held_to_its_own_map_in_each_runtime(
    checkpoint: Path, painted: Path, tmp_path: Path
) -> None:
    """INT8 moves the map of a network this small by more than a limit for all could allow."""
    config = ExportConfig(
        checkpoint,
        tmp_path / "int8.onnx",
        precision=Precision.INT8,
        data=painted,
        limit=2,
        device="cpu",
    )
    with_one = with_selftest(open_artifact(checkpoint))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "with_selftest", lambda _: with_one)
        patch.setitem(LIMITS, Precision.INT8, Limits(0.0, 1.0, 1.0, largest_difference=1.0))
        (artifact,) = export_module.export_model(config)
    manifest = artifact.manifest
    assert manifest.selftest is not None
    assert manifest.selftest == with_one.manifest.selftest  # the reference's stays beside them
    for runtime in ("onnxruntime", "openvino"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(TOLERANCES, Precision.INT8, Difference(0.0, 0))
            with Segmenter.open(artifact.path, device="cpu", runtime=runtime) as segmenter:
                assert segmenter.info.precision == "int8"
        proof = manifest.proof_in(runtime)
        assert proof is not None
        own = decode_rgb(base64.b64decode(proof.selftest_map), "map")[..., 0]
        stored = decode_rgb(base64.b64decode(manifest.selftest.foreground), "map")[..., 0]
        assert difference(own, stored).mean > 0

    # Where photos go another way its own map would be of that way, and nobody would hear of it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flowerseg.images.cv2, "resize", _nearest)
        with pytest.raises(ArtifactError, match=r"small\.pt: the self-test differs"):
            prove(artifact, with_one, open_photos(painted, "val"), device="cpu")


def test_fp32_file_is_held_to_the_references_map(fp32_onnx: Artifact) -> None:
    proof = fp32_onnx.manifest.proof
    assert proof is not None
    assert proof.selftest_map == ""
