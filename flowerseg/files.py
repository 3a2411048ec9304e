"""Files that are either complete or absent, the reason where they are absent, and their hash."""

import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from flowerseg.abandoned import PREFIX, TEMPORARY, keeps_as_ours
from flowerseg.errors import NameTooLong, OutputError

# No call only reads the mask, and setting it while threads write would race: read it once.
_UMASK = os.umask(0o022)
os.umask(_UMASK)

_REASONS = {
    errno.ENOSPC: "the disk is full ({free}). Free space or choose another folder.",
    errno.EDQUOT: "your quota is used up ({free}). Free space or choose another folder.",
    errno.EROFS: "the disk is read-only. Choose another folder.",
    errno.EACCES: "permission denied. Choose another folder, or allow writing into this one.",
    errno.EPERM: "permission denied. Choose another folder, or allow writing into this one.",
    errno.EISDIR: "a folder has that name. Choose another name, or move the folder away.",
    errno.EEXIST: "{there} is {kind}. Choose another folder.",
    errno.ENOTDIR: "{there} is {kind}. Choose another folder.",
    errno.EFBIG: "larger than a file may be here. Raise the limit (ulimit -f) or choose another "
    "disk.",
    errno.ENOENT: "its folder is missing, or was removed meanwhile. Run the same again, or choose "
    "another folder.",
    errno.EMFILE: "too many files are open. Raise the limit (ulimit -n), or use fewer --workers.",
    errno.EIO: "the disk reports an error. Check it, or choose another disk.",
    errno.ESTALE: "the network disk has lost it. Check its server, or choose another disk.",
}
_OTHER_REASON = "{error}. Choose another folder."
# What writing to a file that is open may meet; such an error names no file.
_OF_OPEN_FILES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
)

# More than a block of any file system, so that the last free bytes do not hide that it is full.
_PROBE_BYTES = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes `path` when the block succeeds.

    Readers see the old file or the whole new one, never a part: the bytes are flushed to disk
    before the rename, which POSIX makes atomic within a file system. On any exception, Ctrl-C
    included, the temporary file is removed and `path` is untouched.

    Raises:
        OutputError: the system refuses the file; see `explained`.
    """
    with explained(path), _temporary(path.parent, path.suffix) as temporary:
        try:
            yield temporary
        except RuntimeError:
            # torch writes in C++ and says only that it failed: ask the system for its reason.
            _append(temporary, bytes(_PROBE_BYTES))
            raise
        _flush(temporary)
        # mkstemp makes files private to their owner; results are as public as any other file.
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)


def as_path(path: object, name: str) -> Path:
    """The path that a caller gives as text or as a path.

    Raises:
        TypeError: it is neither.
        ValueError: it is empty, which would mean the working folder, or holds a NUL.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a path, not {type(path).__name__}")
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ValueError(f"{name} must be a path, not {text!r}")
    return Path(text)


def convert_paths(settings: object, *names: str) -> None:
    """Turn text in fields of a frozen dataclass into paths, for callers who give text."""
    for name in names:
        if isinstance(value := getattr(settings, name), str):
            object.__setattr__(settings, name, Path(value))


def require_writable(folder: Path) -> None:
    """Create the folder and try a file in it, before minutes of work whose result goes there.

    Raises:
        OutputError: the system refuses; see `explained`.
    """
    with explained(folder), _temporary(folder) as temporary:
        _append(temporary, b"some")
        _flush(temporary)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are missing, however deep: without recursion.

    Raises:
        OSError: the system refuses, or a file has the name of one of them.
    """
    missing = []
    for place in (folder, *folder.parents):
        try:
            place.mkdir()
            break
        except FileNotFoundError:
            missing.append(place)
        except FileExistsError:
            if not place.is_dir():
                raise
            break
    for place in reversed(missing):
        place.mkdir(exist_ok=True)


def write_bytes(path: Path, content: bytes, *, makes_folder: bool = True) -> None:
    """Write `content` so that `path` is never seen half-written. Raises as `replacing` does.

    It does what `replacing` does in a third of the system calls, for those who write thousands.

    Args:
        path: of the file; one that is a link is replaced, and what it leads to stays.
        content: of the file.
        makes_folder: make the folder of `path` if it is missing; else that is an OutputError.
    """
    with explained(path):
        handle, temporary = _created(path.parent, makes_folder)
        try:
            with open(handle, "wb", buffering=0) as file:  # noqa: PTH123  # a handle has no path
                _write_all(file, content)
                os.fsync(handle)
                temporary.replace(path)  # while it is still locked
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text so that `path` is never seen half-written. Raises as `replacing` does."""
    write_bytes(path, content.encode())


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of the file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: Path, *, follows_link: bool = False) -> BufferedReader:
    """Open a regular file for reading, at once: a pipe would wait for a writer.

    Raises:
        OSError: there is none, it cannot be read, or it is a link, a pipe, a folder or a device.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follows_link else os.O_NOFOLLOW)
    file = open(os.open(path, flags), "rb")  # noqa: PTH123, SIM115  # a handle has no path
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def sha256_of_regular(path: Path, *, follows_link: bool = False) -> str:
    """Hex SHA-256 of a regular file's bytes. Raises as `open_regular` does."""
    with open_regular(path, follows_link=follows_link) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into an error that a user can act on.

    Errors about other files, and those that are no refusal, pass.

    Raises:
        NameTooLong: the name is longer than the file system takes; another file may fit.
        OutputError: a full disk, a read-only folder, a folder or a file in the way, a size limit.
    """
    try:
        yield
    except OSError as error:
        if not _is_about(path, error):
            raise
        if error.errno == errno.ENAMETOOLONG:
            raise NameTooLong(f"{path}: the name is too long to write. Choose another.") from error
        if reason := _reason(path, error):
            raise OutputError(f"{path}: cannot be written: {reason}") from error
        raise


def remove_temporaries(folder: Path, below: Iterable[str] = ()) -> None:
    """Remove what processes that were killed in the middle of `replacing` left in a folder.

    Only regular files of such names go, and links are not followed.

    Args:
        folder: no process may be writing there now.
        below: names of its subfolders that are searched to their bottom.

    Raises:
        OutputError: the system refuses.
    """
    for top in (folder, *(folder / name for name in below)):
        for place in [top] if top == folder else _folders(top):
            with explained(place), os.scandir(place) as entries:
                _remove_temporaries(entries)


def _remove_temporaries(entries: Iterable[os.DirEntry[str]]) -> None:
    for entry in entries:
        if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with explained(Path(entry.path)):
                Path(entry.path).unlink(missing_ok=True)


def _folders(top: Path) -> Iterator[Path]:
    """A folder and all below it; none where it is missing, or a link that leads elsewhere.

    Not os.walk: before Python 3.12 it recurses, and folders may be deeper than that allows.
    """
    waiting = [] if top.is_symlink() or not top.is_dir() else [top]
    while waiting:
        place = waiting.pop()
        yield place
        with suppress(OSError), os.scandir(place) as entries:
            waiting += [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]


@contextmanager
def _temporary(folder: Path, suffix: str = "") -> Iterator[Path]:
    make_folders(folder)
    while True:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=suffix, dir=folder)
        if keeps_as_ours(handle):
            break
        os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(handle)


def _created(folder: Path, makes_folder: bool) -> tuple[int, Path]:
    """A new file in a folder, open to be written, and as public as any other file."""
    while True:
        temporary = folder / f"{PREFIX}{secrets.token_hex(4)}"
        try:
            handle = os.open(str(temporary), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            if keeps_as_ours(handle):
                return handle, temporary
            os.close(handle)
        except FileExistsError:
            continue  # the name is taken: another one
        except FileNotFoundError:
            if not makes_folder:
                raise
            make_folders(folder)


def _write_all(file: BinaryIO, content: bytes) -> None:
    left = memoryview(content)
    while left:  # the system may take a part
        left = left[file.write(left) :]


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def _flush(path: Path) -> None:
    """Bring the bytes to disk, where some file systems first find that there is no room."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _is_about(path: Path, error: OSError) -> bool:
    """Whether an error concerns `path`, its temporary file or the folders above."""
    if not isinstance(error.filename, str):
        return error.errno in _OF_OPEN_FILES
    place, named = path.absolute(), Path(error.filename).absolute()
    return named.parent in (place, place.parent) or named in place.parents


def _reason(path: Path, error: OSError) -> str:
    """What is wrong and what helps; empty where the error carries no code."""
    if not error.errno:
        return ""
    words = _REASONS.get(error.errno, _OTHER_REASON)
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    try:
        free_mib = shutil.disk_usage(there).free / 2**20
    except OSError:  # a link that leads nowhere has no disk
        free_mib = 0.0
    kind = "a link that leads to no folder" if there.is_symlink() else "a file, not a folder"
    free = f"{free_mib:.0f} MiB free"
    return words.format(there=there, kind=kind, free=free, error=error.strerror)
