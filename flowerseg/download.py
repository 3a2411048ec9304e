"""Fetch the Oxford 17 Category Flower Dataset: resumed, checked, and whole or absent.

Guaranteed: a finished file has the published checksum below, so it is what others used; a folder
appears only when its archive unpacked to the end and holds as many photos or trimaps as it should.
Not guaranteed: that the publisher vouches for the checksums (Oxford publishes none; they are what
independent public projects pinned), nor that files in folders already here are unchanged: those are
only counted. One process at a time may download into a folder.
"""

import hashlib
import os
import queue
import shutil
import socket
import tarfile
import threading
import zlib
from dataclasses import dataclass
from fnmatch import fnmatch
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, getproxies, proxy_bypass, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from flowerseg.errors import DownloadError
from flowerseg.files import explained, write_text

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18
_HEADERS = {"User-Agent": "flowerseg"}
_OXFORD17 = "https://www.robots.ox.ac.uk/~vgg/data/flowers/17/"


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address and the hexadecimal checksums it must have; None is not compared."""

    name: str
    url: str
    sha256: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class RemoteArchive:
    """A .tgz whose folder of `pattern` files, at least `count` of them, becomes `folder`."""

    remote: RemoteFile
    folder: str
    pattern: str
    count: int


# 17flowers.tgz: google-coral/edgetpu test_data/download_oxford_17flowers.sh, intel/dffml
# examples/flower17/dataset.sh and zuizui0223/fcp agree. trimaps.tgz: zuizui0223/fcp alone, in
# docs/supporting/jbi_image_first_atlas_expansion_contract_v2.json; its benchmark, which refuses any
# other archive, reports 848 trimaps. datasplits.mat (no SHA-256 found): google-deepmind/dm_nevis
# datasets_storage/handlers/oxford_flowers_17.py and three more loaders agree.
ARCHIVES = (
    RemoteArchive(
        RemoteFile(
            "17flowers.tgz",
            _OXFORD17 + "17flowers.tgz",
            sha256="fe38a60f8b4a95e657551247d3e7d799a3fafcdbc595be504b12839967823d70",
        ),
        folder="jpg",
        pattern="image_*.jpg",
        count=1360,
    ),
    RemoteArchive(
        RemoteFile(
            "trimaps.tgz",
            _OXFORD17 + "trimaps.tgz",
            sha256="55928dddca447a129f525ff2c525cd0a62b94e7fe74c62ae0ef956191bd24c77",
        ),
        folder="trimaps",
        pattern="image_*.png",
        count=848,
    ),
)
DATASPLITS = RemoteFile(
    "datasplits.mat", _OXFORD17 + "datasplits.mat", md5="4828cddfd0d803c5abbdebcb1e148a1e"
)


def download_oxford17(root: Path) -> Path:
    """Leave `root/jpg`, `root/trimaps` and `root/datasplits.mat` ready for use; return `root`.

    Whatever is there stays; when all is there, nothing is asked of the network. Archives put into
    `root` by hand are checked and used; archives are kept after unpacking.

    Raises:
        DownloadError: a file cannot be fetched or is not the published one, an archive is damaged
            or lacks files, or a folder is there that holds too few of them.
        OutputError: the disk is full or the folder cannot be written.
    """
    missing = [archive for archive in ARCHIVES if not _is_unpacked(root, archive)]
    if not missing and (root / DATASPLITS.name).is_file():
        return root
    with download_progress() as progress:
        # The small file first: what is wrong with the network shows before the large ones.
        download_file(DATASPLITS, root, progress)
        for archive in missing:
            unpack(download_file(archive.remote, root, progress), root, archive)
    return root


def download_progress() -> Progress:
    """A progress display on stderr for `download_file`, shown while used as a context."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True))


def download_file(remote: RemoteFile, folder: Path, progress: Progress) -> Path:
    """Fetch a file into `folder`, or check the one already there, and return its path.

    An interrupted download leaves `<name>.part` and continues from it next time, if the server
    still has the same file. The name itself appears only once length and checksums agree.

    Raises:
        DownloadError: the server cannot be reached within seconds, refuses or breaks off, or the
            file is not the published one.
        OutputError: the disk is full or the folder cannot be written.
    """
    path = folder / remote.name
    if path.exists():
        if fault := _checksum_fault(path, remote):
            raise DownloadError(f"{path}: {fault}. Move it away and run again to fetch it.")
        return path
    part = folder / f"{remote.name}.part"
    by_hand = f"Or fetch the file on another machine and put it at {path}."
    try:
        with explained(part):
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(remote, part, progress)
        fault = _checksum_fault(part, remote)
        if not fault:
            part.replace(path)
            _discard(part)
    except (OSError, HTTPException) as error:
        raise DownloadError(
            f"{remote.url}: download into {folder} failed: {error}. "
            f"Check the network and run again; it continues where it stopped. {by_hand}"
        ) from error
    if fault:
        _discard(part)
        raise DownloadError(
            f"{remote.url}: {fault}. The server or a proxy sent another file; nothing was kept. "
            f"Run again. {by_hand}"
        )
    return path


def unpack(path: Path, root: Path, archive: RemoteArchive) -> None:
    """Unpack a .tgz so that `root/<archive.folder>` appears whole or not at all.

    The archive's own top folder may have any name or be absent.

    Raises:
        DownloadError: the archive is damaged or lacks files.
        OutputError: the disk is full or the folder cannot be written.
    """
    staging = root / f".{archive.folder}.part"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with explained(root / archive.folder):
            staging.mkdir(parents=True)
            count = _extract(path, staging, archive.pattern)
        if count < archive.count:
            raise DownloadError(
                f"{path}: holds {count} {archive.pattern} files, not {archive.count}. "
                "Move it away and run again."
            )
        staging.rename(root / archive.folder)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DownloadError(
            f"{path}: cannot be unpacked into {root}: {error}. If the archive is damaged, "
            "move it away and run again."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(path: Path, folder: Path, pattern: str) -> int:
    """Write every regular file of the archive whose own name matches `pattern` into `folder`.

    Of a member's path only the last part is used, so nothing can land elsewhere. (tarfile's own
    filters are missing from the Python 3.11.2 that Debian 12 ships.)
    """
    count = 0
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            content = tar.extractfile(member) if member.isreg() and fnmatch(name, pattern) else None
            if content:
                (folder / name).write_bytes(content.read())
                count += 1
    return count


def _is_unpacked(root: Path, archive: RemoteArchive) -> bool:
    folder = root / archive.folder
    if not folder.exists() or not any(folder.iterdir()):
        return False
    count = sum(1 for _ in folder.glob(archive.pattern))
    if count < archive.count:
        raise DownloadError(
            f"{folder}: holds {count} of {archive.count} {archive.pattern} files. "
            "Move it away and run again, or choose another folder."
        )
    return True


def _fetch(remote: RemoteFile, part: Path, progress: Progress) -> None:
    _refuse_unreachable(remote.url)
    response, offset = _open(remote.url, part)
    with response:
        if not offset:
            # The old bytes go before the new validator comes, so the two never disagree.
            _discard(part)
            write_text(_validator_path(part), _validator(response))
        total = None if response.length is None else offset + response.length
        task = progress.add_task(remote.name, total=total, completed=offset)
        with part.open("ab") as file:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                progress.advance(task, len(chunk))
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"connection closed after {size} of {total} bytes")


def _refuse_unreachable(url: str) -> None:
    """Raise OSError within seconds where there is no network.

    urllib has one timeout for connecting and reading, and none bounds the name lookup, which can
    hang far longer: so both are tried in a thread that may be left behind.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    outcome: queue.Queue[OSError | None] = queue.Queue()

    def connect() -> None:
        try:
            # Half: where IPv6 leads nowhere there is time left for the IPv4 address.
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S / 2).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        failure = outcome.get(timeout=CONNECT_TIMEOUT_S)
    except queue.Empty:
        failure = TimeoutError(f"no connection to {host} within {CONNECT_TIMEOUT_S:g} s")
    if failure:
        raise failure


def _open(url: str, part: Path) -> tuple[HTTPResponse, int]:
    """Ask for what `part` lacks, or for everything; return also how many bytes to keep."""
    response: HTTPResponse
    saved = _validator_path(part).read_text() if _validator_path(part).exists() else ""
    offset = part.stat().st_size if part.exists() else 0
    if saved and offset:
        headers = {"Range": f"bytes={offset}-", "If-Range": saved}
        try:
            response = urlopen(Request(url, headers=_HEADERS | headers), timeout=READ_TIMEOUT_S)
        except HTTPError as error:
            error.close()
            if error.code != 416:  # the file is no longer than what is here: start over
                raise
        else:
            if response.status != 206:
                return response, 0
            begins = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
            # With If-Range a 206 may leave the validator out (RFC 9110, section 15.3.7).
            if begins and _validator(response) in ("", saved):
                return response, offset
            response.close()
    response = urlopen(Request(url, headers=_HEADERS), timeout=READ_TIMEOUT_S)
    return response, 0


def _validator(response: HTTPResponse) -> str:
    """What If-Range may carry: a strong ETag, else the date, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_path(part).unlink(missing_ok=True)


def _checksum_fault(path: Path, remote: RemoteFile) -> str | None:
    for algorithm, expected in (("sha256", remote.sha256), ("md5", remote.md5)):
        if expected is None:
            continue
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, algorithm).hexdigest()
        if actual != expected:
            return f"its {algorithm} is {actual}, but {expected} is expected"
    return None
