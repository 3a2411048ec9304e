"""Faults of runtimes and of networks, planted behind a real file: the proof finds each.

The file is right; what runs it delivers the wrong result, sees another frame, or computes another
function. What was measured is held against the limits of FP32, FP16 and INT8.
"""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from threading import Condition

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from flowerseg import segmenter
from flowerseg.arrays import Foreground, Images, Rgb
from flowerseg.artifact import Artifact, as_parent, open_artifact, publish, rewrite_manifest
from flowerseg.backends import SessionOptions
from flowerseg.backends.ort import OrtCpuBackend, open_onnx
from flowerseg.backends.pytorch import PyTorchBackend
from flowerseg.checkpoint import network_from_artifact, save_checkpoint
from flowerseg.data import PhotoSet, open_photos
from flowerseg.evaluate import read_pair
from flowerseg.images import resize_area, resize_bilinear, resize_nearest
from flowerseg.metrics import Counts
from flowerseg.model import FlowerNet
from flowerseg.preprocess import Preprocess, frame_from_photo
from flowerseg.proof import prove
from flowerseg.proof.compare import Compared
from flowerseg.proof.passes import Parity, agreement_of
from flowerseg.proof.prove import Evidence
from flowerseg.proofrecord import FaultKind
from flowerseg.shipped import shipped_model

FoundAt = Callable[[Evidence], set[str]]
Memory = dict[bytes, Foreground]
Deliver = Callable[[Images, Foreground, Memory], Foreground]
"""What a runtime makes of a batch's images, its right results, and what it remembers."""
Prepare = Callable[[Rgb], Rgb]
"""Another way from a photo (h, w, 3) to a frame (64, 64, 3)."""

ALL = {"fp32", "fp16", "int8"}
# What moves masks less than INT8 does where it is right (it agrees at 0.983 to 0.987 with PyTorch):
# whoever wants to find it proves the FP32 file of the same export first.
BELOW_INT8 = {
    "background_raised",
    "one_wrapped_pixel_in_a_hundred",
    "first_photos_result_for_the_second",
    "not_antialiased",
    "head_of_an_earlier_step",
}
FULL_BATCH = 8  # of a folder run; all but the last batch of a folder
PREPROCESS = Preprocess((64, 64))


class _Runtime(OrtCpuBackend):
    """ONNX Runtime, with what a fault makes of its frames and its results."""

    def __init__(
        self,
        artifact: Artifact,
        deliver: Deliver = lambda _, foreground, __: foreground,
        prepare: Callable[[Images], Images] = lambda images: images,
    ) -> None:
        (opened,) = open_onnx(artifact, "cpu", SessionOptions())
        assert isinstance(opened, OrtCpuBackend)
        super().__init__(opened._session, opened.info)
        self._deliver, self._prepare = deliver, prepare
        self._memory: Memory = {}

    def upload(self, images: Images) -> None:
        self._seen = images
        super().upload(self._prepare(images))

    def download(self) -> Foreground:
        return self._deliver(self._seen, super().download().copy(), self._memory)


def last_of_eight_spoilt(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    if len(foreground) >= 8:
        foreground[-1] = 255 - foreground[-1]
    return foreground


def fifth_place_empty(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    foreground[4:5] = 0
    return foreground


def first_two_swapped(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return foreground[[1, 0, *range(2, len(foreground))]] if len(foreground) > 1 else foreground


def first_two_swapped_in_a_partial_batch(
    images: Images, foreground: Foreground, memory: Memory
) -> Foreground:
    is_partial = len(foreground) not in (1, FULL_BATCH)
    return first_two_swapped(images, foreground, memory) if is_partial else foreground


def padding_delivered_for_the_last_of_a_partial_batch(
    _: Images, foreground: Foreground, __: Memory
) -> Foreground:
    if len(foreground) not in (1, FULL_BATCH):
        foreground[-1] = 0
    return foreground


def rolled_beyond_eight(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return np.roll(foreground, 1, axis=0) if len(foreground) > FULL_BATCH else foreground


def empty_from_four_to_seven(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return np.zeros_like(foreground) if 4 <= len(foreground) <= 7 else foreground


def rolled_in_batches(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return np.roll(foreground, 1, axis=0)


def tails_cut_off(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    """From 0.15 to 0.85, as after a clamp of logits: no mask at 0.5 changes."""
    return foreground.clip(38, 217)


def background_raised(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    raised = (foreground.astype(np.int16) + 127) // 2
    return np.where(foreground < 128, raised, foreground).astype(np.uint8)


def empty_if_dark(images: Images, foreground: Foreground, __: Memory) -> Foreground:
    return _empty_where(images.mean(axis=(1, 2, 3)) < 25, foreground)


def empty_if_bright(images: Images, foreground: Foreground, __: Memory) -> Foreground:
    return _empty_where(images.mean(axis=(1, 2, 3)) > 200, foreground)


def empty_if_flat(images: Images, foreground: Foreground, __: Memory) -> Foreground:
    return _empty_where(images.std(axis=(1, 2, 3)) < 5, foreground)


def _empty_where(condition: NDArray[np.bool_], foreground: Foreground) -> Foreground:
    return np.where(condition[:, None, None], np.uint8(0), foreground)


def reversed_batch(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return foreground[::-1]


def first_result_for_all(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return np.repeat(foreground[:1], len(foreground), axis=0)


def transposed_mask(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return foreground.transpose(0, 2, 1)


def nothing(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return np.zeros_like(foreground)


def everything(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return np.full_like(foreground, 255)


def undecided(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    return np.full_like(foreground, 128)


def one_dead_row(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    foreground[:, 40] = 0
    return foreground


def one_wrapped_pixel_in_a_hundred(_: Images, foreground: Foreground, __: Memory) -> Foreground:
    """256 cast to uint8 is 0."""
    foreground.reshape(len(foreground), -1)[:, ::100] = 0
    return foreground


def results_of_the_batch_before(_: Images, foreground: Foreground, memory: Memory) -> Foreground:
    before = memory.get(b"before", foreground)
    memory[b"before"] = foreground
    return np.resize(before, foreground.shape)


def results_of_the_first_batch(_: Images, foreground: Foreground, memory: Memory) -> Foreground:
    return np.resize(memory.setdefault(b"first", foreground), foreground.shape)


def first_photos_result_for_the_second(
    images: Images, foreground: Foreground, memory: Memory
) -> Foreground:
    return _spoilt_for_the_second(images, foreground, memory, lambda first: first)


def second_photo_not_finite(images: Images, foreground: Foreground, memory: Memory) -> Foreground:
    """Where half overflows probabilities are NaN, which is 0 in uint8."""
    return _spoilt_for_the_second(images, foreground, memory, np.zeros_like)


def stale_at_every_53rd_call(_: Images, foreground: Foreground, memory: Memory) -> Foreground:
    memory[b"calls"] = calls = memory.get(b"calls", np.zeros(1, np.uint8)) + np.uint8(1)
    before = memory.get(b"before", foreground)
    memory[b"before"] = foreground
    return np.resize(before, foreground.shape) if calls[0] % 53 == 0 else foreground


def _spoilt_for_the_second(
    images: Images,
    foreground: Foreground,
    memory: Memory,
    spoil: Callable[[Foreground], Foreground],
) -> Foreground:
    """Spoil the result of the second photo ever seen, wherever it comes in whatever batch."""
    for place, image in enumerate(images):
        first = next(iter(memory.values()), foreground[place])
        memory.setdefault(image.tobytes(), foreground[place].copy())
        if image.tobytes() in list(memory)[1:2]:
            foreground[place] = spoil(first)
    return foreground


DELIVERIES: list[Deliver] = [
    last_of_eight_spoilt,
    fifth_place_empty,
    first_two_swapped,
    first_two_swapped_in_a_partial_batch,
    padding_delivered_for_the_last_of_a_partial_batch,
    rolled_beyond_eight,
    empty_from_four_to_seven,
    rolled_in_batches,
    tails_cut_off,
    background_raised,
    empty_if_dark,
    empty_if_bright,
    empty_if_flat,
    reversed_batch,
    first_result_for_all,
    transposed_mask,
    nothing,
    everything,
    undecided,
    one_dead_row,
    one_wrapped_pixel_in_a_hundred,
    results_of_the_batch_before,
    results_of_the_first_batch,
    first_photos_result_for_the_second,
    second_photo_not_finite,
    stale_at_every_53rd_call,
]


def _visible(fault: str) -> set[str]:
    return ALL - {"int8"} if fault in BELOW_INT8 else ALL


@pytest.mark.parametrize("deliver", DELIVERIES, ids=lambda deliver: deliver.__name__)
def test_fault_in_what_is_delivered_is_found(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    monkeypatch: pytest.MonkeyPatch,
    found_at: FoundAt,
    deliver: Deliver,
) -> None:
    monkeypatch.setattr(segmenter, "open_backends", lambda file, *_: (_Runtime(file, deliver),))
    evidence = prove(fp32_onnx, reference, val_photos, device="cpu")
    assert found_at(evidence) == _visible(deliver.__name__)


def test_fault_of_some_batch_sizes_is_reported_once_with_all_of_them(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = empty_from_four_to_seven
    monkeypatch.setattr(segmenter, "open_backends", lambda file, *_: (_Runtime(file, wrong),))
    proof = prove(fp32_onnx, reference, val_photos, device="cpu").proof
    assert (proof.alone_agreement_iou, proof.folder_agreement_iou) == (1.0, 1.0)
    (fault,) = proof.faults
    assert (fault.kind, fault.batches) == (FaultKind.BATCHED, (4, 5, 6, 7))
    assert fault.found > 0.3
    assert proof.why.startswith("in batches of 4, 5, 6 and 7, at place ")


def test_empty_mask_where_a_flower_fills_the_frame_is_found_by_stress_frames_alone(
    painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = open_artifact(shipped_model())

    class Runtime(PyTorchBackend):
        """PyTorch with the fault."""

        def download(self) -> Foreground:
            foreground = super().download()
            return _empty_where((foreground >= 128).mean(axis=(1, 2)) > 0.95, foreground)

    network, size_hw = network_from_artifact(shipped), shipped.manifest.preprocess.size_hw
    backend = Runtime(network, size_hw, "cpu")
    monkeypatch.setattr(segmenter, "open_backends", lambda *_: (backend,))
    proof = prove(shipped, shipped, open_photos(painted, "val"), device="cpu").proof
    assert proof.agreement_iou == 1.0  # no painted photo has so much flower
    (fault,) = proof.faults
    assert fault.kind == FaultKind.STRESSED
    assert fault.found > 0.5


class _OneOutputBuffer:
    """What two streams share by mistake: who is late finds the other one's results."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.running = 0
        self.content: Foreground | None = None


class _SharingRuntime(_Runtime):
    def __init__(self, artifact: Artifact, shared: _OneOutputBuffer) -> None:
        super().__init__(artifact)
        self._shared = shared

    def upload(self, images: Images) -> None:
        super().upload(images)
        with self._shared.changed:
            self._shared.running += 1
            self._shared.changed.notify_all()
            # The fault needs company: wait a moment for the other stream.
            self._shared.changed.wait_for(lambda: self._shared.running > 1, timeout=0.02)

    def download(self) -> Foreground:
        own = super().download()
        shared = self._shared
        with shared.changed:
            found = own if shared.running == 1 or shared.content is None else shared.content
            shared.content = own
            shared.running -= 1
        return np.resize(found, own.shape)


def test_output_buffer_shared_by_two_streams_is_found(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    monkeypatch: pytest.MonkeyPatch,
    found_at: FoundAt,
) -> None:
    shared = _OneOutputBuffer()

    def opened(file: Artifact, *_: object) -> tuple[_Runtime, ...]:
        return _SharingRuntime(file, shared), _SharingRuntime(file, shared)

    monkeypatch.setattr(segmenter, "open_backends", opened)
    evidence = prove(fp32_onnx, reference, val_photos, device="cpu")
    assert evidence.proof.alone_agreement_iou == 1.0
    assert [d for d in evidence.parity.batched if d.flipped_share] == []
    assert found_at(evidence) == ALL
    assert FaultKind.STREAMED in {fault.kind for fault in evidence.proof.faults}
    assert "in 2 streams at a time" in evidence.proof.why


def not_antialiased(rgb: Rgb) -> Rgb:
    return resize_bilinear(rgb, (64, 64))


def nearest_pixel(rgb: Rgb) -> Rgb:
    return np.dstack(
        [resize_nearest(np.ascontiguousarray(rgb[..., c]), (64, 64)) for c in range(3)]
    )


def bgr_decoded(rgb: Rgb) -> Rgb:
    return frame_from_photo(rgb, PREPROCESS)[..., ::-1]


def letterboxed(rgb: Rgb) -> Rgb:
    """Aspect ratio kept: 80 x 112 becomes 46 x 64, with black above and below."""
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[9:55] = resize_area(rgb, (46, 64))
    return frame


def centre_cut_out(rgb: Rgb) -> Rgb:
    return resize_area(np.ascontiguousarray(rgb[:, 16:96]), (64, 64))


def turned_over(rgb: Rgb) -> Rgb:
    """EXIF orientation not applied."""
    return frame_from_photo(rgb, PREPROCESS)[::-1, ::-1]


def of_half_the_size(rgb: Rgb) -> Rgb:
    return resize_bilinear(resize_area(rgb, (32, 32)), (64, 64))


def limited_range(rgb: Rgb) -> Rgb:
    """Video's 16 to 235 for 0 to 255."""
    return (16 + frame_from_photo(rgb, PREPROCESS) * (219 / 255)).astype(np.uint8)


PREPARATIONS: list[Prepare] = [
    not_antialiased,
    nearest_pixel,
    bgr_decoded,
    letterboxed,
    centre_cut_out,
    turned_over,
    of_half_the_size,
    limited_range,
]


@pytest.mark.parametrize("prepare", PREPARATIONS, ids=lambda prepare: prepare.__name__)
def test_fault_in_preparing_photos_is_found(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    monkeypatch: pytest.MonkeyPatch,
    found_at: FoundAt,
    prepare: Prepare,
) -> None:
    # A backend sees frames only: it looks up which photo each was made from. Stress frames are of
    # no photo, and go the right way.
    photos = [read_pair(item)[0] for item in val_photos.photos]
    others = {frame_from_photo(rgb, PREPROCESS).tobytes(): prepare(rgb) for rgb in photos}

    def prepared(images: Images) -> Images:
        return np.stack([others.get(image.tobytes(), image) for image in images])

    monkeypatch.setattr(
        segmenter, "open_backends", lambda file, *_: (_Runtime(file, prepare=prepared),)
    )
    evidence = prove(fp32_onnx, reference, val_photos, device="cpu")
    assert found_at(evidence) == _visible(prepare.__name__)


def batchnorm_in_train_mode(module: nn.Module) -> None:
    for part in _all_of(module, nn.BatchNorm2d):
        part.train()
    # One value a channel has no variance: torch itself refuses a single photo in this branch.
    module.get_submodule("network.classifier.0.convs.4").eval()


def dropout_in_train_mode(module: nn.Module) -> None:
    for part in _all_of(module, nn.Dropout):
        part.train()


def other_epsilon_of_batchnorm(module: nn.Module) -> None:
    for part in _all_of(module, nn.BatchNorm2d):
        part.eps = 0.1


def batchnorm_without_statistics(module: nn.Module) -> None:
    """Running statistics as they were before training: a checkpoint that left them out."""
    for part in _all_of(module, nn.BatchNorm2d):
        part.reset_running_stats()


def head_of_an_earlier_step(module: nn.Module) -> None:
    head = module.get_submodule("network.classifier.4")
    noise = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))
    head.weight.data += 0.05 * head.weight.std() * noise


NETWORK_FAULTS: list[Callable[[nn.Module], None]] = [
    batchnorm_in_train_mode,
    dropout_in_train_mode,
    other_epsilon_of_batchnorm,
    batchnorm_without_statistics,
    head_of_an_earlier_step,
]


@pytest.mark.parametrize("spoil", NETWORK_FAULTS, ids=lambda spoil: spoil.__name__)
def test_fault_in_the_networks_form_is_found(
    fp32_onnx: Artifact,
    reference: Artifact,
    small_network: FlowerNet,
    val_photos: PhotoSet,
    monkeypatch: pytest.MonkeyPatch,
    found_at: FoundAt,
    spoil: Callable[[nn.Module], None],
) -> None:
    backend = PyTorchBackend(copy.deepcopy(small_network), (64, 64), "cpu")
    spoil(backend._module)
    monkeypatch.setattr(segmenter, "open_backends", lambda *_: (backend,))
    evidence = prove(fp32_onnx, reference, val_photos, device="cpu")
    assert found_at(evidence) == _visible(spoil.__name__)


def _all_of(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, kind)]


@pytest.mark.parametrize("off", [-0.05, -0.001])
def test_other_threshold_than_the_checkpoints_is_found(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    copied: Callable[[Path], Path],
    found_at: FoundAt,
    off: float,
) -> None:
    copy_of_file = Artifact(copied(fp32_onnx.path), fp32_onnx.manifest)
    artifact = rewrite_manifest(copy_of_file, threshold=0.5 + off)
    evidence = prove(artifact, reference, val_photos, device="cpu")
    first = evidence.proof.faults[0]
    assert (first.kind, first.found, first.limit) == (FaultKind.THRESHOLD, 0.5 + off, 0.5)
    # What it does to the masks is found besides, where it does anything.
    assert found_at(evidence) == (ALL if off == -0.05 else set())


def test_faint_flower_that_is_lost_among_many_photos_is_found_by_its_probabilities(
    fp32_onnx: Artifact, reference: Artifact, val_photos: PhotoSet, found_at: FoundAt
) -> None:
    measured = prove(fp32_onnx, reference, val_photos, device="cpu")
    same = Counts(true_positive=3000, true_negative=7000)
    right = Compared("right", same, same, same, largest_difference=0.0)
    lost = Counts(false_negative=20, true_negative=9980)
    faint = Compared("faint", lost, lost, same, largest_difference=0.9)
    parity = Parity(alone=[*[right] * 200, faint])
    # Both bars of the masks hold: 600000 / 600020 agree, and 20 of 10000 pixels change sides.
    assert agreement_of(parity.alone) > 0.99996
    assert faint.flipped_share == 0.002
    assert found_at(dataclasses.replace(measured, parity=parity)) == {"fp32", "fp16"}


def test_checkpoint_that_sees_no_flower_proves_nothing(
    fp32_onnx: Artifact,
    reference: Artifact,
    small_network: FlowerNet,
    val_photos: PhotoSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blind = copy.deepcopy(small_network)
    with torch.no_grad():
        blind.head.bias[1] -= 100
    untested = dataclasses.replace(reference.manifest, selftest=None)
    parent = save_checkpoint(tmp_path / "blind.pt", blind, untested)
    manifest = dataclasses.replace(fp32_onnx.manifest, parents=(as_parent(parent),), selftest=None)
    content = fp32_onnx.path.read_bytes()
    artifact = publish(tmp_path / "blind.onnx", manifest, lambda file: file.write_bytes(content))
    monkeypatch.setattr(segmenter, "open_backends", lambda file, *_: (_Runtime(file, nothing),))

    proof = prove(artifact, parent, val_photos, device="cpu").proof

    assert proof.agreement_iou == 1.0
    assert proof.status == "failed"
    assert "the reference draws no outline in any of the 6 photos" in proof.why


def test_file_of_an_older_checkpoint_under_a_newer_ones_name_is_found(
    fp32_onnx: Artifact,
    reference: Artifact,
    small_network: FlowerNet,
    val_photos: PhotoSet,
    tmp_path: Path,
    found_at: FoundAt,
) -> None:
    newer = copy.deepcopy(small_network)
    with torch.no_grad():
        newer.head.bias[1] += 0.2
    untested = dataclasses.replace(reference.manifest, selftest=None)
    parent = save_checkpoint(tmp_path / "newer.pt", newer, untested)
    manifest = dataclasses.replace(fp32_onnx.manifest, parents=(as_parent(parent),), selftest=None)
    content = fp32_onnx.path.read_bytes()
    stale = publish(tmp_path / "stale.onnx", manifest, lambda file: file.write_bytes(content))
    assert found_at(prove(stale, parent, val_photos, device="cpu")) == ALL
