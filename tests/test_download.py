"""Downloading: against a server on the loopback, with archives made here. No other network."""

import errno
import hashlib
import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flowerseg import download
from flowerseg.download import RemoteArchive, RemoteFile
from flowerseg.errors import DownloadError, OutputError

BODY = bytes(range(256)) * 40


@dataclass
class Site:
    """What the server holds, how it misbehaves, and what it was asked and sent."""

    files: dict[str, bytes]
    url: str = ""
    etag: str = '"v1"'
    knows_range: bool = True
    knows_if_range: bool = True
    cut_at: int | None = None
    ranges: list[str | None] = field(default_factory=list)
    sent_bytes: int = 0

    def remote(self, name: str, sha256: str | None = None) -> RemoteFile:
        return RemoteFile(name, f"{self.url}/{name}", sha256)


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.ranges.append(wanted)
            body = site.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            same = not site.knows_if_range or self.headers.get("If-Range") == site.etag
            start = 0
            if wanted and site.knows_range and same:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            sent = body[start : site.cut_at]
            self.wfile.write(sent)
            site.sent_bytes += len(sent)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    held = Site({"data.bin": BODY})
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(held))
    held.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield held
    server.shutdown()
    server.server_close()
    thread.join()


def _fetch(remote: RemoteFile, folder: Path) -> Path:
    with download.download_progress() as progress:
        return download.download_file(remote, folder, progress)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _interrupt(site: Site, folder: Path, at: int) -> None:
    """Leave the first `at` bytes of data.bin behind, as a broken connection does."""
    site.cut_at = at
    with pytest.raises(DownloadError, match=f"{at} of {len(BODY)} bytes"):
        _fetch(site.remote("data.bin", _sha256(BODY)), folder)
    assert not (folder / "data.bin").exists()
    assert (folder / "data.bin.part").stat().st_size == at
    site.cut_at = None
    site.ranges.clear()
    site.sent_bytes = 0


def test_a_whole_file_arrives_alone_and_is_not_fetched_twice(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = site.remote("data.bin", _sha256(BODY))
    assert _fetch(remote, tmp_path).read_bytes() == BODY
    _fetch(remote, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]
    assert site.ranges == [None]
    output = capsys.readouterr()
    assert output.out == ""
    assert "data.bin" in output.err


def test_resumes_from_half(site: Site, tmp_path: Path) -> None:
    _interrupt(site, tmp_path, at=5000)
    path = _fetch(site.remote("data.bin", _sha256(BODY)), tmp_path)
    assert path.read_bytes() == BODY
    assert site.ranges == ["bytes=5000-"]
    assert site.sent_bytes == len(BODY) - 5000
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_starts_over_where_the_server_ignores_range(site: Site, tmp_path: Path) -> None:
    _interrupt(site, tmp_path, at=5000)
    site.knows_range = False
    path = _fetch(site.remote("data.bin", _sha256(BODY)), tmp_path)
    assert path.read_bytes() == BODY
    assert site.sent_bytes == len(BODY)


@pytest.mark.parametrize("knows_if_range", [True, False])
def test_starts_over_when_the_file_changed(
    site: Site, tmp_path: Path, knows_if_range: bool
) -> None:
    _interrupt(site, tmp_path, at=5000)
    site.files["data.bin"] = changed = bytes(reversed(BODY))
    site.etag = '"v2"'
    site.knows_if_range = knows_if_range
    assert _fetch(site.remote("data.bin", _sha256(changed)), tmp_path).read_bytes() == changed


def test_starts_over_without_a_strong_validator(site: Site, tmp_path: Path) -> None:
    site.etag = 'W/"weak"'
    _interrupt(site, tmp_path, at=5000)
    assert _fetch(site.remote("data.bin", _sha256(BODY)), tmp_path).read_bytes() == BODY
    assert site.ranges == [None]


def test_starts_over_when_the_part_has_nothing_left_to_ask_for(site: Site, tmp_path: Path) -> None:
    _interrupt(site, tmp_path, at=5000)
    (tmp_path / "data.bin.part").write_bytes(BODY)
    assert _fetch(site.remote("data.bin", _sha256(BODY)), tmp_path).read_bytes() == BODY
    assert site.ranges == [f"bytes={len(BODY)}-", None]


def test_a_disk_that_fills_up_is_not_blamed_on_the_network(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = iter(["for the validator"])

    def fsync(handle: int) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    remote = site.remote("data.bin", _sha256(BODY))
    full = pytest.raises(OutputError, match=r"data\.bin\.part: cannot be .*: the disk is full")
    with monkeypatch.context() as patched, full:
        patched.setattr(os, "fsync", fsync)
        _fetch(remote, tmp_path)
    assert not (tmp_path / "data.bin").exists()
    assert _fetch(remote, tmp_path).read_bytes() == BODY


def test_refuses_a_wrong_checksum_and_keeps_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"sha256 is .* is expected"):
        _fetch(site.remote("data.bin", "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_wrong_file_put_there_by_hand(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"another")
    with pytest.raises(DownloadError, match="Move it away"):
        _fetch(RemoteFile("data.bin", f"{site.url}/data.bin", md5="0" * 32), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"another"
    assert site.ranges == []


def test_a_missing_page_says_so(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        _fetch(site.remote("absent"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_host_is_noticed_with_advice(site: Site, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/data.bin"
        began = time.monotonic()
        with pytest.raises(DownloadError) as raised:
            _fetch(RemoteFile("data.bin", url), tmp_path)
    assert time.monotonic() - began < 2
    assert url in str(raised.value)
    assert "refused" in str(raised.value)
    assert f"put it at {tmp_path / 'data.bin'}" in str(raised.value)


def test_a_name_lookup_that_hangs_is_given_up(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(download, "CONNECT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args: released.wait(10) and [])
    with pytest.raises(DownloadError, match=r"no connection to flowers\.invalid within 0\.1 s"):
        _fetch(RemoteFile("data.bin", "https://flowers.invalid/data.bin"), tmp_path)
    released.set()


def _tgz(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(BODY)
            tar.addfile(member, io.BytesIO(BODY))
    return buffer.getvalue()


@pytest.fixture
def oxford(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The data set in small: two photos, one trimap, the splits; the photos' top folder differs."""
    jpg = _tgz(["17flowers/photos/image_0001.jpg", "17flowers/photos/image_0002.jpg"])
    site.files |= {
        "17flowers.tgz": jpg,
        "trimaps.tgz": _tgz(["image_0001.png", "imlist.mat"]),
        "datasplits.mat": b"splits",
    }
    remotes = {name: site.remote(name, _sha256(body)) for name, body in site.files.items()}
    archives = (
        RemoteArchive(remotes["17flowers.tgz"], "jpg", "image_*.jpg", 2),
        RemoteArchive(remotes["trimaps.tgz"], "trimaps", "image_*.png", 1),
    )
    monkeypatch.setattr(download, "ARCHIVES", archives)
    monkeypatch.setattr(download, "DATASPLITS", remotes["datasplits.mat"])
    return site


def test_oxford17_is_made_ready_and_then_left_alone(oxford: Site, tmp_path: Path) -> None:
    root = download.download_oxford17(tmp_path / "data")
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    kept = {"17flowers.tgz", "trimaps.tgz", "datasplits.mat"}
    photos = {"jpg/image_0001.jpg", "jpg/image_0002.jpg"}
    assert files == kept | photos | {"trimaps/image_0001.png"}
    oxford.ranges.clear()
    assert download.download_oxford17(root) == root
    assert oxford.ranges == []


def test_oxford17_uses_files_put_there_by_hand(oxford: Site, tmp_path: Path) -> None:
    for name in ("17flowers.tgz", "trimaps.tgz", "datasplits.mat"):
        (tmp_path / name).write_bytes(oxford.files[name])
    download.download_oxford17(tmp_path)
    assert oxford.ranges == []
    assert (tmp_path / "jpg" / "image_0002.jpg").read_bytes() == BODY


def test_oxford17_recovers_from_a_killed_extraction(oxford: Site, tmp_path: Path) -> None:
    stale = tmp_path / ".jpg.part" / "top" / "jpg"
    stale.mkdir(parents=True)
    (stale / "image_0009.jpg").write_bytes(b"half")
    download.download_oxford17(tmp_path)
    assert len(list((tmp_path / "jpg").iterdir())) == 2
    assert not (tmp_path / ".jpg.part").exists()


def test_oxford17_does_not_touch_a_folder_of_somebody_else(oxford: Site, tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir()
    (tmp_path / "jpg" / "image_0001.jpg").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="holds 1 of 2"):
        download.download_oxford17(tmp_path)
    assert oxford.ranges == []
    assert (tmp_path / "jpg" / "image_0001.jpg").read_bytes() == b"mine"


def _damaged(archive: bytes) -> bytes:
    return archive[: len(archive) // 2]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (_tgz(["jpg/image_0001.jpg", "../../evil.jpg"]), "holds 1 image_"),
        (_tgz(["jpg/image_0001.jpg"]), "holds 1 image_"),
        (_tgz(["readme"]), "holds 0 image_"),
        (_damaged(_tgz(["jpg/image_0001.jpg", "jpg/image_0002.jpg"])), "cannot be unpacked"),
        (b"<html>Please log in</html>", "cannot be unpacked"),
    ],
    ids=["traversal", "too few", "none", "damaged", "not an archive"],
)
def test_unpack_refuses_and_leaves_nothing(tmp_path: Path, content: bytes, complaint: str) -> None:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    path = root / "17flowers.tgz"
    path.write_bytes(content)
    archive = RemoteArchive(
        RemoteFile("17flowers.tgz", "http://x.invalid"), "jpg", "image_*.jpg", 2
    )
    with pytest.raises(DownloadError, match=complaint):
        download.unpack(path, root, archive)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    assert list(root.iterdir()) == [path]


def test_unpack_lets_no_member_choose_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    path = root / "17flowers.tgz"
    path.write_bytes(_tgz(["../../image_0001.jpg", "/image_0002.jpg"]))
    archive = RemoteArchive(
        RemoteFile("17flowers.tgz", "http://x.invalid"), "jpg", "image_*.jpg", 2
    )
    download.unpack(path, root, archive)
    written = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("image_*")}
    assert written == {"deep/root/jpg/image_0001.jpg", "deep/root/jpg/image_0002.jpg"}


def test_the_published_files_are_pinned() -> None:
    remotes = [archive.remote for archive in download.ARCHIVES] + [download.DATASPLITS]
    for remote in remotes:
        assert remote.url == f"https://www.robots.ox.ac.uk/~vgg/data/flowers/17/{remote.name}"
        assert len(remote.sha256 or "") == 64 or len(remote.md5 or "") == 32
