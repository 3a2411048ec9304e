"""ZIP archives from strangers: looked at before PyTorch unpacks or maps anything in them.

PyTorch writes checkpoints and `.pt2` packages as ZIP archives whose members are not compressed. Its
readers follow member names out of their folder and believe every size, so what it would never write
is refused.
"""

import stat
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO

from flowerseg.zipdirectory import require_one_directory

_ENCRYPTED = 0x1  # of the general purpose flags; APPNOTE.TXT, section 4.4.4
_CHUNK_BYTES = 1 << 20


def require_plain_archive(file: BinaryIO) -> None:
    """Refuse an archive that does not have the form in which PyTorch writes them.

    All bytes are read once, since PyTorch does not compare checksums.

    Raises:
        ValueError: it is no ZIP archive; a member is compressed, encrypted, a link or damaged, has
            a name that leaves the folder or occurs twice; or they hold more bytes than the file;
            or two readers may find two directories in it.
    """
    size = file.seek(0, 2)
    require_one_directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            _require_plain_members(archive.infolist(), size)
            for member in archive.infolist():
                _require_whole(archive, member)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"it is no whole archive ({error})") from error
    except RecursionError as error:
        raise ValueError("it is no whole archive") from error
    finally:
        file.seek(0)


def _require_plain_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names: set[str] = set()
    for member in members:
        _require_plain_member(member)
        name = member.filename.casefold()  # PyTorch's reader ignores case
        if name in names:
            raise ValueError(f"it holds {member.filename!r} twice")
        names.add(name)
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members claim to be larger than the file")


def _require_plain_member(member: zipfile.ZipInfo) -> None:
    name = member.orig_filename
    if name != member.filename or "\\" in name or "\0" in name:
        raise ValueError(f"it holds a member with the name {name!r}")
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"its member {name!r} would be unpacked outside of its folder")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"its member {name!r} is a link or a device")
    if member.flag_bits & _ENCRYPTED:
        raise ValueError(f"its member {name!r} is encrypted")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError(f"its member {name!r} is compressed, which PyTorch never does")


def _require_whole(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read a member to its end, where zipfile compares the checksum."""
    with archive.open(member) as content:
        while content.read(_CHUNK_BYTES):
            pass
