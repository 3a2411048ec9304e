"""Files are whole or absent, whatever happens while they are written, and it is said why."""

import errno
import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowerseg.errors import NameTooLong, OutputError
from flowerseg.files import replacing, require_writable, sha256_of, write_bytes, write_text


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


@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_written_file_obeys_the_umask_of_the_process(tmp_path: Path, umask: int, mode: int) -> None:
    code = (
        f"import os; os.umask({umask}); from pathlib import Path; "
        "from flowerseg.files import write_bytes; write_bytes(Path('a'), b'a')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_what_the_system_takes_in_parts_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = io.FileIO.write

    class Sparing(io.FileIO):
        def write(self, content: Any) -> int:
            return write(self, memoryview(content)[:7])

    monkeypatch.setattr("builtins.open", lambda handle, mode, **_: Sparing(handle, mode))
    content = bytes(range(100))
    write_bytes(tmp_path / "a", content)
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == content


def test_threads_that_write_one_name_leave_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "new/a"
    contents = [bytes([value]) * 50_000 for value in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_bytes, path, content) for content in contents * 5]:
            done.result()
    assert path.read_bytes() in contents
    assert _names(path.parent) == ["a"]


def test_name_that_is_taken_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / ".tmp-00000000"
    taken.write_bytes(b"another's")
    names = iter(["00000000", "11111111"])
    monkeypatch.setattr("flowerseg.files.secrets.token_hex", lambda _: next(names))
    write_bytes(tmp_path / "a", b"mine")
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert taken.read_bytes() == b"another's"


def test_writing_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["a"]


def test_hash_is_that_of_hashlib_beyond_one_chunk(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


# --- what the system refuses ---


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    """A file that is there already; the test makes the system refuse to write it anew."""
    path = tmp_path / "out/a.txt"
    path.parent.mkdir()
    path.write_bytes(b"old")
    return path


def _assert_untouched(path: Path) -> None:
    assert path.read_bytes() == b"old"
    assert _names(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full (12 MiB free). Free space or choose another folder."),
        (errno.EDQUOT, "your quota is used up (12 MiB free). Free space or choose another folder."),
        (errno.EROFS, "the disk is read-only. Choose another folder."),
    ],
)
def test_a_disk_that_takes_nothing_is_an_error_with_a_remedy(
    refused: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12 << 20))
    with pytest.raises(OutputError) as raised:
        write_text(refused, "new")
    assert str(raised.value) == f"{refused}: cannot be written: {reason}"
    _assert_untouched(refused)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_the_kernels_own_news_of_a_full_disk_is_understood(refused: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full"), replacing(refused) as temporary:  # noqa: PT012  # the block is tested
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"new")
    _assert_untouched(refused)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_folder_that_may_not_be_written_is_an_error_with_a_remedy(
    refused: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(path: str, *_: object) -> int:
        raise PermissionError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError) as raised:
        write_text(refused, "new")
    monkeypatch.undo()
    assert str(raised.value) == (
        f"{refused}: cannot be written: permission denied. "
        "Choose another folder, or allow writing into this one."
    )
    _assert_untouched(refused)


def test_a_folder_of_that_name_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.txt/precious").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: a folder has that name\."):
        write_text(tmp_path / "a.txt", "new")
    assert _names(tmp_path) == ["a.txt"]
    assert _names(tmp_path / "a.txt") == ["precious"]


@pytest.mark.parametrize("below", ["b.txt", "sub/b.txt", "sub/deeper/b.txt"])
def test_a_file_where_a_folder_should_be_is_named(refused: Path, below: str) -> None:
    with pytest.raises(OutputError) as raised:
        write_text(refused / below, "new")
    assert str(raised.value) == (
        f"{refused / below}: cannot be written: {refused} is a file, not a folder. "
        "Choose another folder."
    )
    _assert_untouched(refused)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="out is a link that leads to no folder"):
        write_text(tmp_path / "out/a.txt", "new")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_goes_away_meanwhile_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder is missing, or was removed meanwhile"):
        write_bytes(tmp_path / "out/a.txt", b"new", makes_folder=False)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EINVAL, errno.EBUSY])
def test_any_other_refusal_is_an_error_in_words(
    refused: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(path: str, *_: object) -> int:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: \w.*\. .*\w\."):
        write_text(refused, "new")


def test_a_name_that_is_too_long_is_told_from_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NameTooLong, match=r"a\.txt: the name is too long to write\."):
        write_text(tmp_path / f"{'a' * 300}.txt", "new")
    assert _names(tmp_path) == []


_LIMITED = """
import resource, sys
from pathlib import Path
from flowerseg.files import replacing, require_writable, write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
path = Path(sys.argv[1])
try:
    {action}
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
_TORCH = """
    import torch
    with replacing(path) as temporary:
        torch.save(torch.zeros(1 << 18), temporary)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.parametrize(
    "action", ["write_bytes(path, bytes(1 << 20))", _TORCH], ids=["Python", "torch, in C++"]
)
def test_a_file_beyond_the_limit_is_refused_by_the_system_and_told(
    refused: Path, action: str
) -> None:
    words = [sys.executable, "-c", _LIMITED.format(action=action), str(refused)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said == (
        f"OutputError: {refused}: cannot be written: larger than a file may be here. "
        "Raise the limit (ulimit -f) or choose another disk.\n"
    )
    _assert_untouched(refused)


@pytest.mark.parametrize(
    "error",
    [
        OSError("cannot write mode F as PNG"),
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/photo.jpg"),
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/photo.jpg"),
        OSError(errno.EPERM, "[SSL] record layer failure"),  # ssl counts its errors anew
        RuntimeError("out of memory"),
    ],
)
def test_an_error_about_something_else_keeps_its_words(refused: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, replacing(refused):
        raise error
    assert raised.value is error
    _assert_untouched(refused)


def test_a_folder_is_tried_before_the_work_and_left_as_it_was(
    tmp_path: Path, refused: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new/deeper")
    require_writable(refused.parent)
    assert _names(tmp_path / "new/deeper") == []
    _assert_untouched(refused)

    with pytest.raises(OutputError, match=f"{refused} is a file, not a folder"):
        require_writable(refused)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=f"^{refused.parent}: cannot be .* the disk is full"):
        require_writable(refused.parent)
    _assert_untouched(refused)
