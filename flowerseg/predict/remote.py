"""Photos on object stores and other machines, through fsspec, which torch uses too.

`s3://`, `gs://` and others need the package of their own that fsspec names when it is missing.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flowerseg.errors import DataError, ImageError, some_of
from flowerseg.images import PHOTO_SUFFIXES
from flowerseg.listing import Listing
from flowerseg.photofile import MAX_BYTES


def is_remote(folder: str) -> bool:
    """Whether this is a URI and not a path."""
    return "://" in folder


@dataclass(frozen=True)
class RemoteFolder:
    """A folder that fsspec opens. It can be sent to other machines."""

    system: Any  # fsspec.AbstractFileSystem, which has no types
    base: str

    @classmethod
    def at(cls, uri: str) -> "RemoteFolder":
        """The folder at a URI.

        Raises:
            DataError: no such kind of URI is known, or its package is missing.
        """
        from fsspec.core import url_to_fs

        try:
            return cls(*url_to_fs(uri))
        except Exception as error:  # each file system has errors of its own
            raise DataError(f"{uri}: cannot be opened: {error}.") from error

    @property
    def local_folder(self) -> Path | None:
        """The folder, if it is one of this machine's own file system, as `file://` names it."""
        from fsspec.implementations.local import LocalFileSystem

        return Path(self.base) if isinstance(self.system, LocalFileSystem) else None

    def photos(self) -> Listing:
        """The photos in it and below it; hidden and other files are skipped and counted.

        Raises:
            DataError: the folder is missing, is not to be read, or holds no photo; or the names of
                some photos are no paths, so that a file system has no place for their masks.
        """
        try:
            found = self.system.find(self.base, detail=True)
        except Exception as error:  # each file system has errors of its own
            raise DataError(f"{self.base}: cannot be listed: {error}.") from error
        sizes = {self._below(name): about.get("size") for name, about in found.items()}
        names = sorted(name for name in sizes if _is_photo(PurePosixPath(name)))
        if strange := [name for name in names if not _is_path(name)]:
            raise DataError(
                f"{self.base}: {len(strange)} photos whose names are no paths of files: "
                f"{some_of(strange)}. Rename them."
            )
        if not names:
            raise DataError(
                f"{self.base}: no photos in it; {len(sizes)} other files. Photos end in "
                f"{', '.join(sorted(PHOTO_SUFFIXES))}."
            )
        too_large = {name for name in names if (sizes[name] or 0) > MAX_BYTES}
        return Listing(
            Path(self.base),
            tuple(Path(name) for name in names if name not in too_large),
            tuple((Path(name), self._too_large(name, sizes[name])) for name in sorted(too_large)),
            skipped=len(sizes) - len(names),
        )

    def read(self, path: Path) -> bytes:
        """The bytes of a photo.

        Raises:
            ImageError: they cannot be had.
        """
        # A path has no two slashes in a row, and the address of a folder may.
        below = path.relative_to(self.base).as_posix()
        try:
            return bytes(self.system.cat_file(f"{self._prefix}{below}"))
        except Exception as error:  # each file system has errors of its own
            raise ImageError(f"{path}: cannot be read: {error}.") from error

    @property
    def _prefix(self) -> str:
        return f"{self.base.rstrip('/')}/" if self.base else ""

    def _below(self, name: str) -> str:
        """The name of a file without that of the folder."""
        return name.removeprefix(self._prefix)

    def _too_large(self, name: str, size: int | None) -> str:
        return f"{self._prefix}{name}: {size} bytes, and an image has {MAX_BYTES} at most."


def _is_photo(path: PurePosixPath) -> bool:
    is_hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    return not is_hidden and path.suffix.lower() in PHOTO_SUFFIXES


def _is_path(name: str) -> bool:
    """Whether a name leads to one file below a folder, and no other name leads to the same one."""
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and "\0" not in name
