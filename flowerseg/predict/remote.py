"""Photos on object stores and other machines, through fsspec, which torch uses too.

`s3://`, `gs://` and others need the package of their own that fsspec names when it is missing.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flowerseg.errors import DataError, ImageError
from flowerseg.images import PHOTO_SUFFIXES
from flowerseg.listing import Listing


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
        except (ImportError, ValueError) as error:
            raise DataError(f"{uri}: cannot be opened: {error}.") from error

    def photos(self) -> Listing:
        """The photos in it and below it; hidden and other files are skipped and counted.

        Raises:
            DataError: the folder is missing, is not to be read, or holds no photo.
        """
        try:
            files = [PurePosixPath(file) for file in self.system.find(self.base)]
        except Exception as error:  # each file system has errors of its own
            raise DataError(f"{self.base}: cannot be listed: {error}.") from error
        under = [file.relative_to(self.base) for file in files]
        found = sorted(path.as_posix() for path in under if _is_photo(path))
        if not found:
            raise DataError(
                f"{self.base}: no photos in it; {len(files)} other files. Photos end in "
                f"{', '.join(sorted(PHOTO_SUFFIXES))}."
            )
        photos = tuple(Path(path) for path in found)
        return Listing(Path(self.base), photos, skipped=len(files) - len(photos))

    def read(self, path: Path) -> bytes:
        """The bytes of a photo.

        Raises:
            ImageError: they cannot be had.
        """
        try:
            return bytes(self.system.cat_file(path.as_posix()))
        except Exception as error:  # each file system has errors of its own
            raise ImageError(f"{path}: cannot be read: {error}.") from error


def _is_photo(path: PurePosixPath) -> bool:
    is_hidden = any(part.startswith(".") for part in path.parts)
    return not is_hidden and path.suffix.lower() in PHOTO_SUFFIXES
