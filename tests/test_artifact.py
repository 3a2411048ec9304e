"""Manifests: what is written is read back, and whatever does not fit is refused by name."""

import dataclasses
import hashlib
import json
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
    Limits,
    Manifest,
    Parent,
    Precision,
    Proof,
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
        "proved", "by hand", Limits(0.98, 0.01), 6, "flowers", (1, 4), 0.99, 0.9, 0.9, "ab"
    ),
    built_for=BuiltFor("NVIDIA A100", "8.0", "Linux"),
    versions={"tensorrt": "10.12"},
    rebuild="flowerseg-export best.pt",
    profiles=(Batch(1, 1, 1), Batch(2, 4, 16)),
    trtexec={"11": TrtexecCommands("trtexec --onnx=a.onnx", ("trtexec --loadEngine=a.engine",))},
)
BARE = Manifest(Kind.CHECKPOINT, "deeplabv3_resnet50", Precision.FP32, Preprocess())


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


def test_each_runtime_has_a_proof_of_its_own_which_the_next_one_replaces(tmp_path: Path) -> None:
    onnx = dataclasses.replace(BARE, kind=Kind.ONNX, proof=Proof("not run", "no photos"))
    first = Proof("proved", "a", runtime="onnxruntime")
    other = Proof("failed", "b", runtime="openvino")
    again = Proof("proved", "c", runtime="openvino")

    artifact = _publish(tmp_path, onnx, small_onnx(onnx.preprocess.size_hw).SerializeToString())
    found = []
    for proof in (first, other, again):
        artifact = record_proof(artifact, proof)
        found.append((artifact.manifest.proof, artifact.manifest.further_proofs))

    assert found == [(first, ()), (first, (other,)), (first, (again,))]
    assert open_artifact(artifact.path).manifest.proof_in("openvino") == again


@pytest.mark.parametrize(
    ("proof", "runtime", "is_proved"),
    [
        (Proof("proved", "older: names no runtime"), "onnxruntime", True),
        (Proof("proved", "older: names no runtime"), "openvino", False),
        (Proof("proved", "by hand", runtime="openvino"), "openvino", True),
        (Proof("proved", "by hand", runtime="openvino"), "onnxruntime", False),
        (Proof("failed", "by hand", runtime="openvino"), "openvino", False),
    ],
)
def test_proof_is_good_for_the_runtime_that_executed_it(
    tmp_path: Path, proof: Proof, runtime: str, is_proved: bool
) -> None:
    artifact = _publish(tmp_path, dataclasses.replace(BARE, kind=Kind.ONNX, proof=proof))
    assert artifact.manifest.is_proved_in(runtime) is is_proved
    if is_proved:
        require_proof(artifact, allow_unproven=False, runtime=runtime)
    else:
        with pytest.raises(ArtifactError, match="not proved"):
            require_proof(artifact, allow_unproven=False, runtime=runtime)


@pytest.mark.parametrize("manifest", [FULL, BARE], ids=["proved", "checkpoint"])
def test_proved_file_and_checkpoint_need_no_permission(tmp_path: Path, manifest: Manifest) -> None:
    require_proof(_publish(tmp_path, manifest), allow_unproven=False)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 4), (1, 4, 2)])
def test_batch_out_of_order_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="1 <= min <= opt <= max"):
        Batch(*sizes)
