"""Bytes of photos from files that grow, hang, have no end, or are none."""

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flowerseg import photofile
from flowerseg.errors import FlowersegError, ImageError
from flowerseg.photofile import photo_bytes, within


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 300_000])
def test_bytes_are_those_of_the_file_also_through_a_link(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    assert photo_bytes(tmp_path / "a.jpg") == content
    assert photo_bytes(tmp_path / "link.jpg") == content


def test_size_of_the_file_system_is_no_more_than_a_hint() -> None:
    assert Path("/proc/self/maps").stat().st_size == 0
    assert photo_bytes(Path("/proc/self/maps")).count(b"\n") > 10
    with pytest.raises(ImageError, match=r"/proc/self/maps: more than 100 bytes, and an image has"):
        photo_bytes(Path("/proc/self/maps"), max_bytes=100)


def test_no_more_is_read_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(bytes(1000))
    assert len(photo_bytes(file, max_bytes=1000)) == 1000
    with pytest.raises(ImageError, match="1000 bytes, and an image has 999 at most"):
        photo_bytes(file, max_bytes=999)

    read, taken = os.read, 0

    def read_while_it_grows(handle: int, count: int) -> bytes:
        nonlocal taken
        with file.open("ab") as end:
            end.write(bytes(1000))
        part = read(handle, count)
        taken += len(part)
        return part

    monkeypatch.setattr(os, "read", read_while_it_grows)
    with pytest.raises(ImageError, match="more than 5000 bytes, and an image has 5000 at most"):
        photo_bytes(file, max_bytes=5000)
    assert taken == 5001


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "dead.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
    expected = {
        "pipe.jpg": "it is a pipe, socket or device, not a file",
        "endless.jpg": "it is a pipe, socket or device, not a file",
        "socket.jpg": "it is a pipe, socket or device, not a file",
        "folder.jpg": "it is a folder, not a photo",
        "dead.jpg": "No such file or directory",
        "loop.jpg": "Too many levels of symbolic links",
        "x" * 256: "File name too long",
        "x/" * 2100: "File name too long",
        "dead.jpg ": "The name begins or ends with white space",
    }
    for name, reason in expected.items():
        with pytest.raises(ImageError, match=reason):
            photo_bytes(tmp_path / name)


def test_pipe_that_takes_the_photos_place_before_it_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    os.mkfifo(tmp_path / "pipe")
    before = (tmp_path / "a.jpg").stat()
    monkeypatch.setattr(Path, "stat", lambda path: before)
    with pytest.raises(ImageError, match="it is a pipe, socket or device"):
        photo_bytes(tmp_path / "pipe")


def test_file_that_has_no_bytes_yet_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg: a regular file by its status, which blocks."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "pipe").open("rb+", buffering=0):  # a writer that does not write
        monkeypatch.setattr(stat, "S_ISREG", lambda mode: True)
        with pytest.raises(ImageError, match="it has no bytes to read now"):
            photo_bytes(tmp_path / "pipe")


def test_read_that_hangs_is_given_up_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photofile, "_hanging", photofile._HangingReads())  # other tests' reads hang
    release = threading.Event()

    def read(path: Path) -> bytes:
        if path.name == "hangs.jpg":
            release.wait()
        if path.name == "bad.jpg":
            raise ImageError("bad.jpg: cannot be read.")
        return path.name.encode()

    timely = within(read, 0.2)
    assert timely(Path("a.jpg")) == b"a.jpg"
    with pytest.raises(ImageError, match=r"bad\.jpg: cannot be read"):
        timely(Path("bad.jpg"))
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"m/hangs\.jpg: reading took longer than 0\.2 s"):
        timely(Path("m/hangs.jpg"))
    assert time.monotonic() - began < 5
    monkeypatch.setattr(photofile, "_MOST_HANGING", 2)
    with pytest.raises(FlowersegError, match=r"2 photos were given up .* mount hangs") as raised:
        timely(Path("hangs.jpg"))
    assert not isinstance(raised.value, ImageError)
    release.set()
    assert within(read, None) is read


def test_process_ends_although_a_read_hangs() -> None:
    program = (
        "import os\n"
        "from pathlib import Path\n"
        "from flowerseg.photofile import within\n"
        "from flowerseg.errors import ImageError\n"
        "hang, _ = os.pipe()\n"
        "try: within(lambda path: os.read(hang, 1), 0.1)(Path('a.jpg'))\n"
        "except ImageError as error: print(error)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert shown.stdout.startswith("a.jpg: reading took longer than 0.1 s")
    assert (shown.stderr, shown.returncode) == ("", 0)
