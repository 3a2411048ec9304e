"""Files are whole or absent, whatever happens while they are written."""

import hashlib
import stat
from pathlib import Path

import pytest

from flowerseg.files import replacing, sha256_of, write_bytes, write_text


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_under_its_name_and_nothing_else_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "sub/deeper/a.txt", "Blüte\n")
    assert (tmp_path / "sub/deeper/a.txt").read_bytes() == b"Bl\xc3\xbcte\n"
    assert _names(tmp_path / "sub/deeper") == ["a.txt"]


def test_old_content_is_there_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012  # the block is tested
        temporary.write_bytes(b"half of the n")
        raise error
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["a.txt"]


def test_result_is_as_public_as_any_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "written", b"")
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written")}
    assert modes["written"] == modes["plain"]


def test_hash_is_that_of_hashlib_beyond_one_chunk(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
