"""Manifests: what is written is read back, and whatever does not fit is refused by name."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from flowerseg import artifact as artifact_module
from flowerseg.artifact import (
    Artifact,
    Batch,
    BuiltFor,
    Data,
    Kind,
    Manifest,
    Parent,
    Precision,
    TrtexecCommands,
    as_parent,
    manifest_path,
    open_artifact,
    publish,
    read_manifest,
    record_proof,
    require_proof,
    rewrite_manifest,
    whole_range,
)
from flowerseg.errors import ArtifactError
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Limits, Proof
from tests.onnxes import small_onnx

FULL = Manifest(
    kind=Kind.TENSORRT,
    architecture="deeplabv3_resnet50",
    precision=Precision.INT8,
    preprocess=Preprocess((96, 128)),
    threshold=0.4,
    quantisation="symmetric",
    batch=Batch(1, 4, 16),
    parents=(Parent(Kind.CHECKPOINT, "best.pt", "ab"), Parent(Kind.ONNX, "a.onnx", "cd")),
    data=Data("flowers/trn1", "ef", 12, 6, 0.9),
    proof=Proof(
        "proved",
        "by hand",
        Limits(0.98, 0.01),
        photos=6,
        data="flowers",
        batch_sizes=(1, 4),
        agreement_iou=0.99,
        model_iou=0.9,
        reference_iou=0.9,
        reference_sha256="ab",
        device="cuda",
    ),
    built_for=BuiltFor("NVIDIA A100", "8.0", "Linux"),
    versions={"tensorrt": "10.12"},
    rebuild="flowerseg-export best.pt",
    profiles=(Batch(1, 1, 1), Batch(2, 4, 16)),
    trtexec={"11": TrtexecCommands("trtexec --onnx=a.onnx", ("trtexec --loadEngine=a.engine",))},
)
BARE = Manifest(Kind.CHECKPOINT, "deeplabv3_resnet50", Precision.FP32, Preprocess())


def _proof(**fields: Any) -> Proof:
    """A proof in OpenVINO on the CPU, or with other fields."""
    known = {"status": "proved", "how": "by hand", "runtime": "openvino", "device": "cpu"}
    return Proof(**(known | fields))


def _publish(folder: Path, manifest: Manifest = FULL, content: bytes = b"weights") -> Artifact:
    return publish(folder / "a.engine", manifest, lambda path: _write(path, content))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _edit(artifact: Artifact, **fields: Any) -> None:
    path = manifest_path(artifact.path)
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_range_of_several_profiles_is_tuned_where_the_last_one_is() -> None:
    assert whole_range(FULL.profiles) == Batch(1, 4, 16)
    assert whole_range([Batch(2, 4, 8)]) == Batch(2, 4, 8)


@pytest.mark.parametrize(
    ("manifest", "ranges"),
    [
        (FULL, FULL.profiles),
        (dataclasses.replace(FULL, profiles=()), (Batch(1, 4, 16),)),
        (BARE, ()),
    ],
)
def test_file_without_profiles_has_the_one_range_of_its_batches(
    manifest: Manifest, ranges: tuple[Batch, ...]
) -> None:
    assert manifest.ranges == ranges


@pytest.mark.parametrize("manifest", [FULL, BARE], ids=["full", "bare"])
def test_manifest_is_read_back_as_it_was_written(tmp_path: Path, manifest: Manifest) -> None:
    written = _publish(tmp_path, manifest)
    opened = open_artifact(tmp_path / "a.engine")
    assert opened == written
    filled = {"sha256", "versions", "created"}
    for field in dataclasses.fields(Manifest):
        if field.name not in filled:
            assert getattr(opened.manifest, field.name) == getattr(manifest, field.name)


def test_manifest_holds_hash_date_and_versions(tmp_path: Path) -> None:
    manifest = _publish(tmp_path).manifest
    assert manifest.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert manifest.created.endswith("+00:00")
    assert {"flowerseg", "torch", "onnx", "numpy"} <= set(manifest.versions)
    assert manifest.versions["tensorrt"] == "10.12"  # what the caller knows goes first


def test_link_to_a_parent_is_kind_name_and_hash(tmp_path: Path) -> None:
    link = as_parent(_publish(tmp_path))
    assert link == Parent(Kind.TENSORRT, "a.engine", hashlib.sha256(b"weights").hexdigest())


def test_manifest_lies_beside_the_file() -> None:
    assert manifest_path(Path("models/flower.onnx")) == Path("models/flower.onnx.json")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.onnx: no such model file"):
        open_artifact(tmp_path / "none.onnx")


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    manifest_path(_publish(tmp_path).path).unlink()
    with pytest.raises(ArtifactError, match=r"a\.engine\.json: the manifest is missing"):
        open_artifact(tmp_path / "a.engine")


@pytest.mark.parametrize("place", [0, 3, 6])
def test_one_changed_byte_is_refused(tmp_path: Path, place: int) -> None:
    path = _publish(tmp_path).path
    content = bytearray(b"weights")
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not the one its manifest describes") as refused:
        open_artifact(path)
    assert FULL.rebuild not in str(refused.value)  # anybody's text, which would look like advice


@pytest.mark.parametrize("content", [b"", b"weight", b"weights\0"])
def test_file_that_grew_or_shrank_is_refused(tmp_path: Path, content: bytes) -> None:
    path = _publish(tmp_path).path
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="changed, cut off or replaced"):
        open_artifact(path)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_other_schema_is_refused(tmp_path: Path, schema: object) -> None:
    artifact = _publish(tmp_path)
    _edit(artifact, schema=schema)
    with pytest.raises(ArtifactError, match=f"manifest schema {schema!r}; .* reads 1"):
        open_artifact(artifact.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"kind": "onnx"}', "\x80\x81"])
def test_manifest_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"a\.json: (not a readable manifest|manifest schema)"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"colour": "red"}, "unknown colour"),
        ({"kind": "coreml"}, "coreml"),
        ({"precision": "fp8"}, "fp8"),
        ({"threshold": "half"}, "'half' is not float"),
        ({"threshold": True}, "True is not float"),
        ({"architecture": 3}, "3 is not str"),
        ({"preprocess": {"size_hw": [224]}}, "shorter"),
        ({"preprocess": {"size_hw": [224, 224], "mean": 0}}, "unknown mean"),
        ({"preprocess": {"kernel": "lanczos"}}, "lanczos"),
        ({"preprocess": {"size_hw": [16, 224]}}, "size_hw"),
        ({"batch": {"min": 4, "opt": 2, "max": 8}}, "min <= opt <= max"),
        ({"batch": {"min": True, "opt": 2, "max": 8}}, "True is not int"),
        ({"proof": {"status": "perhaps", "how": ""}}, "perhaps"),
        ({"proof": {"how": ""}}, "status"),
    ],
)
def test_field_that_does_not_fit_is_named(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    artifact = _publish(tmp_path)
    _edit(artifact, **fields)
    with pytest.raises(ArtifactError, match=rf"a\.engine\.json: wrong field .*{said}"):
        open_artifact(artifact.path)


class _Killed(BaseException):
    """The process ends here."""


def test_killed_between_the_two_writes_leaves_a_model_that_nothing_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(tmp_path, content=b"old")

    def kill(*_: object) -> None:
        raise _Killed

    monkeypatch.setattr(artifact_module, "write_text", kill)
    with pytest.raises(_Killed):
        _publish(tmp_path, content=b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.engine"]
    with pytest.raises(ArtifactError, match="the manifest is missing"):
        open_artifact(tmp_path / "a.engine")


def test_writer_that_fails_leaves_the_old_model_and_its_manifest(tmp_path: Path) -> None:
    old = _publish(tmp_path, content=b"old")

    def fail(path: Path) -> None:
        path.write_bytes(b"half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(old.path, FULL, fail)
    assert open_artifact(old.path) == old
    assert len(list(tmp_path.iterdir())) == 2


def test_rewritten_manifest_keeps_everything_else(tmp_path: Path) -> None:
    written = _publish(tmp_path)
    rewrite_manifest(written, proof=Proof("failed", "by hand"))
    opened = open_artifact(written.path).manifest
    assert opened == dataclasses.replace(written.manifest, proof=Proof("failed", "by hand"))


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (None, r"not proved \(its proof was never run\)"),
        (Proof("not run", "no GPU here"), r"not proved \(no GPU here\)"),
        (Proof("failed", "agreement 0.9"), r"not proved \(agreement 0\.9\)"),
    ],
)
def test_file_without_a_proof_is_refused_unless_allowed(
    tmp_path: Path, proof: Proof | None, said: str
) -> None:
    artifact = _publish(tmp_path, dataclasses.replace(FULL, proof=proof))
    with pytest.raises(ArtifactError, match=f"{said}. Prove it with flowerseg-verify"):
        require_proof(artifact, allow_unproven=False)
    require_proof(artifact, allow_unproven=True)


def test_each_runtime_and_device_has_a_proof_of_its_own_which_the_next_one_replaces(
    tmp_path: Path,
) -> None:
    onnx = dataclasses.replace(BARE, kind=Kind.ONNX, proof=Proof("not run", "no photos"))
    first = Proof("proved", "a", runtime="onnxruntime", device="cpu")
    other = Proof("failed", "b", runtime="openvino", device="cpu")
    again = Proof("proved", "c", runtime="openvino", device="cpu")
    on_gpu = Proof("proved", "d", runtime="onnxruntime", device="cuda")
    first_again = Proof("failed", "e", runtime="onnxruntime", device="cpu")

    artifact = _publish(tmp_path, onnx, small_onnx(onnx.preprocess.size_hw).SerializeToString())
    found = []
    for proof in (first, other, again, on_gpu, first_again):
        artifact = record_proof(artifact, proof)
        found.append((artifact.manifest.proof, artifact.manifest.further_proofs))

    assert found == [
        (first, ()),
        (first, (other,)),
        (first, (again,)),
        (first, (again, on_gpu)),
        (first_again, (again, on_gpu)),
    ]
    manifest = open_artifact(artifact.path).manifest
    assert manifest.proof_in("openvino", "cpu") == again
    assert manifest.proof_in("onnxruntime", "cpu") == first_again
    assert manifest.proof_in("onnxruntime", "cuda:1") == on_gpu


@pytest.mark.parametrize(
    ("proof", "runtime", "device", "reason"),
    [
        (_proof(runtime=""), "onnxruntime", "cpu", ""),
        (_proof(runtime=""), "openvino", "cpu", "its proof was never run"),
        (_proof(), "openvino", "cpu", ""),
        (_proof(), "openvino", "", ""),
        (_proof(), "onnxruntime", "cpu", "its proof was never run"),
        (_proof(), "openvino", "cuda:0", "it was proved on cpu, not on cuda"),
        (_proof(device="cuda"), "openvino", "cuda:1", ""),
        (
            _proof(mode="emulated"),
            "openvino",
            "cuda:0",
            "it was proved on cpu (half emulated), not on cuda",
        ),
        (_proof(device=""), "openvino", "cpu", "its proof does not say on which device it was run"),
        (_proof(status="failed"), "openvino", "cpu", "by hand"),
    ],
)
def test_proof_is_good_for_the_runtime_and_the_device_that_executed_it(
    tmp_path: Path, proof: Proof, runtime: str, device: str, reason: str
) -> None:
    artifact = _publish(tmp_path, dataclasses.replace(BARE, kind=Kind.ONNX, proof=proof))
    assert artifact.manifest.why_not_proved(runtime, device) == reason
    if not reason:
        require_proof(artifact, allow_unproven=False, runtime=runtime, device=device)
        return
    where = " in openvino" if runtime == "openvino" else ""
    with pytest.raises(ArtifactError, match=re.escape(f"not proved{where} ({reason})")):
        require_proof(artifact, allow_unproven=False, runtime=runtime, device=device)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"version": "1.30.0"}, "it was proved in version 1.31.1 of openvino, not in 1.30.0"),
        ({"streams": 5}, ""),
        ({"device_name": "NVIDIA A10"}, "it was proved on NVIDIA H100, not on NVIDIA A10"),
        ({"graph": True}, "it was proved without a CUDA graph"),
    ],
)
def test_proof_is_good_for_the_way_in_which_a_file_is_opened(
    changes: dict[str, Any], reason: str
) -> None:
    proof = _proof(device="cuda", device_name="NVIDIA H100", version="1.31.1", streams=2)
    opened = {"version": "1.31.1", "device_name": "NVIDIA H100", "streams": 1, "graph": False}
    assert proof.why_not_as(**(opened | changes)) == reason
    alone = dataclasses.replace(proof, streams=1)
    assert alone.why_not_as("1.31.1", "NVIDIA H100", 2, graph=False) == (
        "it was proved with one batch at a time, not with 2"
    )
    # Processors are not compared, and an older proof knows no version.
    on_cpu = _proof(device_name="AMD EPYC")
    assert on_cpu.why_not_as("1.31.1", "Intel Xeon", 1, graph=False) == ""


def test_proof_of_an_older_flowerseg_is_read_and_proves_nothing(tmp_path: Path) -> None:
    onnx = dataclasses.replace(BARE, kind=Kind.ONNX, proof=_proof(runtime="onnxruntime"))
    content = small_onnx(onnx.preprocess.size_hw).SerializeToString()
    artifact = _publish(tmp_path, onnx, content)
    fields = json.loads(manifest_path(artifact.path).read_text())
    for name in ("device", "version", "streams", "alone_agreement_iou"):
        del fields["proof"][name]
    fields["proof"] |= {"agreement_by_batch": [{"batch": 1, "agreement_iou": 1.0}]}
    fields["proof"] |= {"place_share": 0.0, "faults": ["agreement IoU 0.9 at batch 1"]}
    manifest_path(artifact.path).write_text(json.dumps(fields))
    manifest = open_artifact(artifact.path).manifest
    assert manifest.why_not_proved("onnxruntime", "cpu") == (
        "its proof does not say on which device it was run"
    )


@pytest.mark.parametrize("manifest", [FULL, BARE], ids=["proved", "checkpoint"])
def test_proved_file_and_checkpoint_need_no_permission(tmp_path: Path, manifest: Manifest) -> None:
    require_proof(_publish(tmp_path, manifest), allow_unproven=False)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 4), (1, 4, 2)])
def test_batch_out_of_order_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="1 <= min <= opt <= max"):
        Batch(*sizes)
