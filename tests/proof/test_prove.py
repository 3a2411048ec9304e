"""The proof finds what it is for: faults planted in real files, one at a time, and no fault."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from flowerseg.artifact import (
    Artifact,
    Batch,
    Precision,
    as_parent,
    open_artifact,
    publish,
    rewrite_manifest,
)
from flowerseg.backends.device import allowed_cores
from flowerseg.checkpoint import save_checkpoint
from flowerseg.data import PhotoSet
from flowerseg.errors import ArtifactError, DataError
from flowerseg.model import FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg.proof import LIMITS, limits, prove, refuse_stranger
from flowerseg.proof.checks import warnings_of
from flowerseg.proof.passes import batch_sizes
from flowerseg.proofrecord import Limits
from flowerseg.unlabelled import open_unlabelled
from tests.loud import louder

Spoil = Callable[[onnx.ModelProto], None]


def _streams_here() -> int:
    """One a core, 2 at least and 8 at most."""
    return max(2, min(len(allowed_cores()), 8))


def _swap_flower_and_background(model: onnx.ModelProto) -> None:
    _rename_output(model, "swapped")
    model.graph.initializer.append(numpy_helper.from_array(np.array(255, np.uint8), "full"))
    model.graph.node.append(helper.make_node("Sub", ["full", "swapped"], ["foreground"]))


def _rename_output(model: onnx.ModelProto, name: str) -> None:
    for node in model.graph.node:
        for i, result in enumerate(node.output):
            if result == "foreground":
                node.output[i] = name


def _spoilt(artifact: Artifact, path: Path, spoil: Spoil) -> Artifact:
    """A file as an exporter with this fault would have published it."""
    model = onnx.load(artifact.path)
    spoil(model)
    onnx.checker.check_model(model)
    return publish(path, artifact.manifest, lambda file: onnx.save(model, str(file)))


@pytest.mark.parametrize("fixture", ["fp32_onnx", "fp16_onnx"])
def test_correct_export_is_proved(fixture: str, request: pytest.FixtureRequest) -> None:
    artifact: Artifact = request.getfixturevalue(fixture)
    proof = open_artifact(artifact.path).manifest.proof
    assert proof is not None
    assert proof.status == "proved"
    assert proof.photos == 6
    assert proof.batch_sizes == (1, 2, 3, 4, 5, 6, 7, 8, 13, 16)
    assert (proof.runtime, proof.device, proof.folder_batch) == ("onnxruntime", "cpu", 8)
    assert proof.streams == _streams_here()
    assert proof.version == onnxruntime.__version__
    assert proof.limits is not None
    assert proof.agreement_iou is not None
    assert proof.agreement_iou >= proof.limits.agreement_iou
    assert proof.reference_iou is not None
    assert 0.1 < proof.reference_iou < 0.9  # masks that could disagree
    assert ("half was emulated" in proof.how) == (fixture == "fp16_onnx")


def test_reference_proves_itself_exactly(reference: Artifact, val_photos: PhotoSet) -> None:
    proof = prove(reference, reference, val_photos, device="cpu").proof
    assert (proof.status, proof.agreement_iou) == ("proved", 1.0)
    assert proof.model_iou == proof.reference_iou
    assert proof.reference_sha256 == reference.manifest.sha256
    assert proof.data.startswith("flowers/val1 ")


def test_checkpoint_with_a_threshold_of_its_own_is_compared_at_it(
    fp16_onnx: Artifact,
    reference: Artifact,
    small_network: FlowerNet,
    val_photos: PhotoSet,
    tmp_path: Path,
) -> None:
    chosen = dataclasses.replace(reference.manifest, threshold=0.3)
    parent = save_checkpoint(tmp_path / "low.pt", small_network, chosen)
    content = fp16_onnx.path.read_bytes()
    manifest = dataclasses.replace(fp16_onnx.manifest, parents=(as_parent(parent),), threshold=0.3)
    artifact = publish(tmp_path / "low.onnx", manifest, lambda file: file.write_bytes(content))
    assert prove(artifact, parent, val_photos, device="cpu").proof.status == "proved"


def test_loss_of_iou_beyond_the_limit_is_a_fault_of_its_own(
    fp32_onnx: Artifact, reference: Artifact, val_photos: PhotoSet, tmp_path: Path
) -> None:
    artifact = _spoilt(fp32_onnx, tmp_path / "spoilt.onnx", _swap_flower_and_background)
    lenient = Limits(agreement_iou=0.0, iou_drop=0.001, flipped_share=1.0)
    proof = prove(artifact, reference, val_photos, device="cpu", limits=lenient).proof
    assert proof.status == "failed"
    assert "IoU against truth drops by 0." in proof.why
    assert "agreement" not in proof.why


@pytest.mark.parametrize(
    "block", ["backbone.2.block.0", "backbone.3.block.0", "classifier.0.convs.0"]
)
def test_overflow_in_half_is_found_although_the_cpu_runtime_widens_it(
    block: str,
    fp16_onnx: Artifact,
    reference: Artifact,
    small_network: FlowerNet,
    val_photos: PhotoSet,
    tmp_path: Path,
) -> None:
    parent = save_checkpoint(tmp_path / "loud.pt", louder(small_network, block), reference.manifest)
    manifest = dataclasses.replace(fp16_onnx.manifest, parents=(as_parent(parent),))
    content = fp16_onnx.path.read_bytes()
    artifact = publish(tmp_path / "a.onnx", manifest, lambda file: file.write_bytes(content))

    proof = prove(artifact, parent, val_photos, device="cpu").proof

    assert proof.agreement_iou is not None
    assert proof.agreement_iou > 0.998  # ONNX Runtime saw nothing
    assert proof.status == "failed"
    assert f"emulated half: {block}.0: its output reaches" in proof.why


def test_checkpoint_that_the_file_was_not_made_from_is_refused(
    fp32_onnx: Artifact,
    reference: Artifact,
    small_network: FlowerNet,
    val_photos: PhotoSet,
    tmp_path: Path,
) -> None:
    other = copy.deepcopy(small_network)
    with torch.no_grad():
        other.head.bias += 1e-3
    stranger = save_checkpoint(tmp_path / "other.pt", other, reference.manifest)
    with pytest.raises(ArtifactError, match=r"was not made from .*other\.pt"):
        prove(fp32_onnx, stranger, val_photos, device="cpu")


def test_reference_that_is_no_checkpoint_is_refused(
    fp32_onnx: Artifact, val_photos: PhotoSet
) -> None:
    with pytest.raises(ArtifactError, match="the reference must be a checkpoint"):
        prove(fp32_onnx, fp32_onnx, val_photos, device="cpu")


def test_fewer_bits_are_proved_only_after_the_files_own(
    fp32_onnx: Artifact, reference: Artifact, val_photos: PhotoSet
) -> None:
    unproved = dataclasses.replace(fp32_onnx.manifest, proof=None, further_proofs=())
    artifact = dataclasses.replace(fp32_onnx, manifest=unproved)
    with pytest.raises(ArtifactError, match=r"computes in bf16, .* --runtime onnxruntime"):
        prove(artifact, reference, val_photos, device="cpu", runtime="openvino-bf16")


def test_file_with_one_changed_byte_is_refused(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    copied: Callable[[Path], Path],
) -> None:
    path = copied(fp32_onnx.path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not the one its manifest describes"):
        prove(Artifact(path, fp32_onnx.manifest), reference, val_photos, device="cpu")


SMALL = [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("ranges", "largest", "sizes"),
    [
        ([], None, [*SMALL, 13, 16]),
        ([], 40, [*SMALL, 13, 16, 27, 32, 40]),
        ([], 4, [1, 2, 3, 4]),
        ([Batch(1, 8, 64)], None, [*SMALL, 13, 16, 27, 32, 53, 64]),
        ([Batch(1, 8, 64)], 200, [*SMALL, 13, 16, 27, 32, 53, 64]),
        ([Batch(1, 1, 1)], None, [1]),
        ([Batch(1, 2, 2)], None, [1, 2]),
        ([Batch(4, 4, 16)], None, [4, 5, 6, 7, 8, 13, 16]),
        (
            [Batch(1, 1, 1), Batch(2, 10, 17), Batch(18, 48, 64)],
            None,
            [*SMALL, 10, 13, 16, 17, 18, 27, 32, 48, 53, 64],
        ),
    ],
)
def test_batch_sizes_are_all_small_ones_and_of_the_others_each_kind(
    ranges: list[Batch], largest: int | None, sizes: list[int]
) -> None:
    assert batch_sizes(ranges, largest) == sizes


def test_progress_ends_at_the_whole(
    fp32_onnx: Artifact, reference: Artifact, val_photos: PhotoSet
) -> None:
    seen: list[tuple[int, int]] = []
    proof = prove(
        fp32_onnx, reference, val_photos, device="cpu", on_batch=lambda *at: seen.append(at)
    )
    # 6 photos, the stress frames, and photos again up to 64 calls; each size above 1 twice;
    # as a folder is run, two batches of 8 for each stream.
    assert len(proof.stress) < 64 - 6
    in_all = 64 + 2 * (sum(range(2, 9)) + 13 + 16) + 2 * 8 * _streams_here()
    assert seen[0] == (1, in_all)
    assert seen[-1] == (in_all, in_all)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_machine_with_one_core_proves_two_streams_for_those_with_more(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowerseg.backends.device.allowed_cores", lambda: [0])
    assert prove(fp32_onnx, reference, val_photos, device="cpu").proof.streams == 2


def test_larger_batches_are_proved_where_they_are_asked_for(
    fp32_onnx: Artifact, reference: Artifact, val_photos: PhotoSet
) -> None:
    proof = prove(fp32_onnx, reference, val_photos, device="cpu", largest_batch=20).proof
    assert proof.batch_sizes[-3:] == (13, 16, 20)


def test_every_precision_has_all_limits_and_none_is_wider_than_int8s() -> None:
    assert set(LIMITS) == set(Precision)
    assert LIMITS[Precision.FP32].agreement_iou == 0.9995
    widest = LIMITS[Precision.INT8]
    for own_limits in LIMITS.values():
        for field in dataclasses.fields(Limits):
            if field.name in ("module_difference", "agreement_drop", "emulated_share"):
                continue  # of INT8 alone
            own, most = getattr(own_limits, field.name), getattr(widest, field.name)
            assert own >= most if field.name.endswith("agreement_iou") else own <= most, field.name


def test_other_preprocess_than_the_checkpoints_is_refused(
    fp32_onnx: Artifact, checkpoint: Path, copied: Callable[[Path], Path]
) -> None:
    artifact = open_artifact(copied(fp32_onnx.path))
    changed = rewrite_manifest(artifact, preprocess=Preprocess((96, 96)))
    with pytest.raises(ArtifactError, match="prepare photos differently"):
        refuse_stranger(changed, open_artifact(checkpoint))


def test_fewer_than_eight_different_photos_are_refused_unless_they_are_accepted(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LEAST_PHOTOS", 8)
    twice = dataclasses.replace(val_photos, photos=2 * val_photos.photos)
    assert len(val_photos) < 8 < len(twice)
    with pytest.raises(DataError, match="6 different photos, and a proof takes 8 at least"):
        prove(fp32_onnx, reference, twice, device="cpu")
    proof = prove(fp32_onnx, reference, val_photos, device="cpu", few_photos=True).proof
    assert (proof.status, proof.photos) == ("proved", 6)
    assert "Only 6 photos: results that change places in a batch may not show." in warnings_of(
        proof
    )


def test_photos_without_labels_prove_agreement(
    fp32_onnx: Artifact, reference: Artifact, painted: Path
) -> None:
    photos = open_unlabelled(painted / "jpg").limited(3)
    proof = prove(fp32_onnx, reference, photos, device="cpu").proof
    assert (proof.status, proof.photos, proof.agreement_iou) == ("proved", 3, 1.0)
    assert (proof.reference_iou, proof.caveats) == (None, ())
    assert warnings_of(proof) == [
        "Agreement with the reference was checked, IoU against truth was not."
    ]
