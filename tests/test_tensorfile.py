"""Files of tensors and archives: equal content gives equal bytes, and hostile ones are refused."""

import hashlib
import pickle
import resource
import struct
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowerseg.archive import require_plain_archive
from flowerseg.errors import ArtifactError, FlowersegError, TrainingError
from flowerseg.metrics import Counts
from flowerseg.model import Architecture
from flowerseg.tensorfile import read_tensors, require_weights, write_tensors
from flowerseg.train import RunFolder
from flowerseg.train.report import Epoch
from flowerseg.train.run import Progress
from flowerseg.weights import network_from_weights
from tests.hostile import damaged_bytes, hostile_values

CONTENT = {"format": "any", "number": 3, "weights": {"a": torch.arange(6.0), "b": torch.ones(2, 3)}}
many = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("tensors") / "a.pt"
    write_tensors(CONTENT, path)
    return path.read_bytes()


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    names = ["one.pt", ".tmp-abcdefgh.pt"]
    for name in names:
        write_tensors(CONTENT, tmp_path / name)
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names}
    assert len(digests) == 1
    found = read_tensors(tmp_path / names[1])
    assert found["number"] == 3
    assert torch.equal(found["weights"]["a"], CONTENT["weights"]["a"])  # type: ignore[index]


def test_equal_states_of_a_run_give_equal_bytes(tmp_path: Path) -> None:
    progress = Progress([Epoch(1, 0.1, 0.5)], 1, 0.5, "ab", [Counts(1, 2, 3, 4)])
    for name in ("a", "b"):
        RunFolder(tmp_path / name).save_state(progress, dict(CONTENT), "basis")
    assert (tmp_path / "a/state.pt").read_bytes() == (tmp_path / "b/state.pt").read_bytes()
    found = RunFolder(tmp_path / "a").load_state("basis")
    assert found is not None
    assert found[0] == progress


@given(data=st.data())
@many
def test_damaged_file_is_never_read_as_other_numbers(
    tmp_path: Path, content: bytes, data: st.DataObject
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data.draw(damaged_bytes(content)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(ArtifactError):
            found = read_tensors(path)
            assert torch.equal(found["weights"]["a"], CONTENT["weights"]["a"])  # type: ignore[index]


@given(state=hostile_values({"basis": "b", "progress": "{}", "training": {"network": {"a": 1}}}))
@example({"basis": "b", "progress": '{"epochs": [{"epoch": 7, "lr": 1, "train_loss": 1}]}'})
@example({"basis": "b", "progress": "[" * 99_999, "training": {}})
@many
def test_hostile_state_of_a_run_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    write_tensors(state, tmp_path / "state.pt")
    with suppress(TrainingError, ArtifactError):
        RunFolder(tmp_path).load_state("b")


def _rewritten(content: bytes, path: Path, **settings: Any) -> None:
    """The archive again, its members written with other settings."""
    path.with_suffix(".in").write_bytes(content)
    with zipfile.ZipFile(path.with_suffix(".in")) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member), **settings)


def test_compressed_members_are_refused_before_memory_is_taken(
    tmp_path: Path, content: bytes
) -> None:
    """A bomb: 512 MiB of zeros in a file of half a megabyte."""
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w", force_zip64=True) as member,
    ):
        for _ in range(512):
            member.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match="is compressed, which PyTorch never does"):
        read_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    _rewritten(content, tmp_path / "a.pt", compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="is compressed"):
        read_tensors(tmp_path / "a.pt")


def test_archive_rewritten_without_compression_is_read(tmp_path: Path, content: bytes) -> None:
    _rewritten(content, tmp_path / "a.pt", compress_type=zipfile.ZIP_STORED)
    assert read_tensors(tmp_path / "a.pt")["number"] == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../evil", "outside of its folder"),
        ("a/../../evil", "outside of its folder"),
        ("/etc/evil", "outside of its folder"),
        ("a\\..\\evil", "a member with the name"),
        ("archive/data.pkl", "twice"),
        ("archive/DATA.PKL", "twice"),
    ],
)
def test_member_with_a_name_that_is_refused(
    tmp_path: Path, content: bytes, name: str, said: str
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, about a name that is there twice
        archive.writestr(name, b"evil")
    with pytest.raises(ArtifactError, match=said):
        read_tensors(path)


def test_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    member = zipfile.ZipInfo("a/link")
    member.create_system = 3
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with path.open("rb") as file, pytest.raises(ValueError, match="is a link or a device"):
        require_plain_archive(file)


def test_encrypted_member_is_refused(tmp_path: Path, content: bytes) -> None:
    changed = bytearray(content)
    directory = changed.index(b"PK\x01\x02")
    changed[directory + 8] |= 1
    (tmp_path / "a.pt").write_bytes(changed)
    with pytest.raises(ArtifactError, match="is encrypted"):
        read_tensors(tmp_path / "a.pt")


def test_member_that_claims_more_than_the_file_is_refused(tmp_path: Path, content: bytes) -> None:
    changed = bytearray(content)
    directory = changed.index(b"PK\x01\x02")
    changed[directory + 20 : directory + 28] = struct.pack("<LL", 2**31, 2**31)
    (tmp_path / "a.pt").write_bytes(changed)
    with pytest.raises(ArtifactError, match="claim to be larger than the file"):
        read_tensors(tmp_path / "a.pt")


def test_flipped_weight_is_found_though_no_manifest_has_its_hash(
    tmp_path: Path, content: bytes
) -> None:
    changed = bytearray(content)
    changed[content.index(struct.pack("<f", 5.0))] ^= 1
    (tmp_path / "a.pt").write_bytes(changed)
    with pytest.raises(ArtifactError, match="no whole archive"):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("what", [len, {"a": len}, [1], {1: 2}])
def test_advice_of_torch_to_run_code_is_never_shown(tmp_path: Path, what: Any) -> None:
    for name, save in (("zip.pt", torch.save), ("old.pt", _save_old)):
        save(what, tmp_path / name)
        with pytest.raises(ArtifactError) as refused:
            read_tensors(tmp_path / name)
        assert "weights_only" not in str(refused.value)


def _save_old(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def test_file_of_the_format_before_pytorch_1_6_is_read(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(tmp_path / "a.pt")["weights"]["b"], torch.ones(2, 3))


@pytest.mark.parametrize(
    "weights",
    [
        None,
        [],
        {"a": 1},
        {"a": torch.eye(2).to_sparse()},
        {"a": torch.zeros(1, dtype=torch.complex64)},
        {"a": torch.zeros(1, device="meta")},
    ],
    ids=["none", "list", "number", "sparse", "complex", "meta"],
)
def test_weights_that_are_no_plain_tensors_are_refused(tmp_path: Path, weights: Any) -> None:
    with pytest.raises(ArtifactError, match=r"a\.pt: "):
        require_weights(weights, tmp_path / "a.pt")
    write_tensors({"format": "flowerseg-checkpoint-1", "weights": weights}, tmp_path / "a.pt")
    with pytest.raises(FlowersegError, match=r"a\.pt"):
        network_from_weights(Architecture.MOBILENET_V3_LARGE, str(tmp_path / "a.pt"))
