"""What FOLDER names on the command line: a folder, a URI, a list, or standard input."""

import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowerseg.cli.terminal import echo

if TYPE_CHECKING:
    from flowerseg.listing import Listing

    Read = Callable[[Path], bytes]

_STDIN = "standard input"


def photos_of(source: str, out: Path, *, null: bool) -> "tuple[Listing, Read]":
    """The photos that FOLDER names, and what reads them.

    Args:
        source: FOLDER as it was given.
        out: the output folder, which is not searched.
        null: the paths on a list are ended by NUL.

    Raises:
        DataError: there is no photo to be found, or the file is no list of photos.
        click.UsageError: FOLDER is empty, or `null` does not go with it.
    """
    from flowerseg.listing import list_photos
    from flowerseg.photofile import photo_bytes
    from flowerseg.photolist import photos_on_list
    from flowerseg.predict.remote import RemoteFolder, is_remote

    if not source:
        raise click.UsageError("FOLDER is empty: name a folder, a list, a URI, or - for stdin.")
    separator = b"\0" if null else b"\n"
    if source == "-":
        return photos_on_list(_list_on_stdin(separator), _STDIN, separator), photo_bytes
    if not is_remote(source) and _is_list(Path(source)):
        return photos_on_list(_list_in(source, separator), source, separator), photo_bytes
    if null:
        raise click.UsageError(f"-0 is for lists of photos, and {source} is none.")
    if is_remote(source):
        remote = RemoteFolder.at(source)
        if remote.local_folder:
            return list_photos(remote.local_folder, out), photo_bytes
        return remote.photos(), remote.read
    return list_photos(Path(source), out), photo_bytes


def _is_list(path: Path) -> bool:
    """Whether a path names a file that may be a list; a pipe too, as `<(find …)` gives one.

    Raises:
        DataError: it is a photo, or a socket or device.
    """
    from flowerseg.errors import DataError
    from flowerseg.images import PHOTO_SUFFIXES

    try:
        mode = path.stat().st_mode
    except OSError:  # as `list_photos` will say
        return False
    if stat.S_ISDIR(mode):
        return False
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise DataError(
            f"{path}: a socket or device, not a folder. Give the folder that the photos are in, a "
            "list of them, or - for a list on standard input."
        )
    if path.suffix.lower() in PHOTO_SUFFIXES:
        raise DataError(f"{path}: a file, not a folder. Give the folder that the photo is in.")
    return True


def _list_in(file: str, separator: bytes) -> bytes:
    from flowerseg.errors import DataError
    from flowerseg.photolist import read_list

    try:
        with Path(file).open("rb") as stream:
            return read_list(stream, file, separator)
    except OSError as error:
        raise DataError(f"{file}: the list cannot be read: {error.strerror}.") from error


def _list_on_stdin(separator: bytes) -> bytes:
    from flowerseg.errors import DataError
    from flowerseg.photolist import read_list

    if sys.stdin is None:
        raise DataError(f"{_STDIN} is closed: pipe a list of photos into it, or name a file.")
    if sys.stdin.isatty():
        echo("Reading the list from the terminal: one path a line, then Ctrl-D.", err=True)
    try:
        return read_list(sys.stdin.buffer, _STDIN, separator)
    except OSError as error:
        raise DataError(f"{_STDIN} cannot be read: {error.strerror}.") from error
