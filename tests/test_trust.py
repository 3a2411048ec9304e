"""Compiled files run as programs: those that other users can change are refused."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flowerseg.artifact import (
    COMPILED,
    Kind,
    Manifest,
    Precision,
    manifest_path,
    open_artifact,
    publish,
)
from flowerseg.backends import gpucache, inductor
from flowerseg.errors import ArtifactError, BackendUnavailable
from flowerseg.preprocess import Preprocess
from flowerseg.trust import distrust, make_private_folder
from tests.onnxes import small_onnx

STRANGER = 4711  # no such user


@pytest.fixture
def given_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes another user own a file; without the right to that, this process becomes another."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, STRANGER, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: STRANGER)

    monkeypatch.delenv("SUDO_UID", raising=False)
    return give


@pytest.fixture
def model(tmp_path: Path) -> Callable[[Kind], Path]:
    def write(kind: Kind) -> Path:
        folder = tmp_path / "models"
        manifest = Manifest(kind, "any", Precision.FP32, Preprocess())
        graph = small_onnx(manifest.preprocess.size_hw).SerializeToString()
        content = graph if kind is Kind.ONNX else b"code"
        artifact = publish(folder / "a", manifest, lambda path: path.write_bytes(content))
        return artifact.path

    return write


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("part", ["file", "manifest", "folder"])
def test_compiled_file_of_another_user_is_refused_without_trust(
    model: Callable[[Kind], Path], given_away: Callable[[Path], None], kind: Kind, part: str
) -> None:
    path = model(kind)
    given_away({"file": path, "manifest": manifest_path(path), "folder": path.parent}[part])
    if kind in COMPILED:
        with pytest.raises(
            ArtifactError, match=r"runs as a program, and .* belongs to user .*--trust"
        ):
            open_artifact(path)
    else:
        open_artifact(path)  # is data
    assert open_artifact(path, trust=True).manifest.kind is kind


@pytest.mark.parametrize("part", ["file", "manifest", "folder"])
def test_compiled_file_that_all_can_write_to_is_refused_without_trust(
    model: Callable[[Kind], Path], part: str
) -> None:
    path = model(Kind.PT2)
    writable = {"file": path, "manifest": manifest_path(path), "folder": path.parent}[part]
    writable.chmod(writable.stat().st_mode | 0o022)
    with pytest.raises(ArtifactError, match=f"every user can write to {writable}. .*--trust"):
        open_artifact(path)
    open_artifact(path, trust=True)
    writable.chmod(writable.stat().st_mode & ~0o002)  # the group still can
    open_artifact(path)


def test_folder_like_tmp_is_trusted_for_ones_own_files(model: Callable[[Kind], Path]) -> None:
    path = model(Kind.PT2)
    path.parent.chmod(0o1777)
    open_artifact(path)


def test_link_is_followed_to_the_file_and_its_folder(
    model: Callable[[Kind], Path], tmp_path: Path
) -> None:
    path = model(Kind.PT2)
    links = tmp_path / "links"
    links.mkdir()
    (links / "a").symlink_to(path)
    (links / "a.json").symlink_to(manifest_path(path))
    open_artifact(links / "a")
    path.parent.chmod(0o777)
    with pytest.raises(ArtifactError, match="every user can write to"):
        open_artifact(links / "a")


def test_files_of_root_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert distrust([Path("/")]) == ""


def test_cache_that_others_can_change_is_not_used(
    tmp_path: Path, given_away: Callable[[Path], None]
) -> None:
    path, lines = tmp_path / "timing/a.cache", list[str]()
    gpucache.write_cache(path, b"code", lines.append)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert gpucache.read_cache(path, lines.append) == b"code"
    assert lines == []
    path.chmod(0o666)
    assert gpucache.read_cache(path, lines.append) == b""
    assert "every user can write to" in lines.pop()
    path.chmod(0o600)
    given_away(path)
    assert gpucache.read_cache(path, lines.append) == b""
    assert "belongs to user" in lines.pop()


def test_folder_that_was_open_to_others_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    make_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_compilers_folder_that_another_user_has_taken_first_is_refused(
    tmp_path: Path, given_away: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "torchinductor"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(inductor, "default_cache_dir", lambda: str(folder))
    inductor.require_private_code_cache()
    assert folder.stat().st_mode & 0o777 == 0o700
    given_away(folder)
    for chosen in (None, str(folder)):
        if chosen:
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", chosen)
        with pytest.raises(BackendUnavailable, match="Set TORCHINDUCTOR_CACHE_DIR to a folder of"):
            inductor.require_private_code_cache()


def test_manifest_cannot_make_a_compiled_file_data(model: Callable[[Kind], Path]) -> None:
    """Another kind in the manifest opens another runtime, which does not run the file's code."""
    path = model(Kind.PT2)
    artifact = open_artifact(path)
    changed = dataclasses.replace(artifact.manifest, kind=Kind.CHECKPOINT)
    manifest_path(path).write_text(changed.to_json())
    from flowerseg.checkpoint import network_from_artifact

    with pytest.raises(ArtifactError, match="not a readable weights file"):
        network_from_artifact(open_artifact(path))
