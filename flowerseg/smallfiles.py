"""Small text files that a person or another program may have written: manifests, recipes, settings.

Every reader of such a file goes through `read_small_text`, so that a pipe does not make it wait, a
device or a folder is refused, and a huge file does not fill the memory.
"""

from pathlib import Path

from flowerseg.files import open_regular

MOST_BYTES = 32 << 20
"""A manifest has 40 KB and 36 bytes for each training photo."""


def read_small_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a regular file, or of one that a link leads to, in UTF-8 with or without BOM.

    Args:
        path: of the file.
        most_bytes: a larger file is refused without being read.

    Raises:
        OSError: there is no such file, it cannot be read, or it is a pipe, a folder or a device.
        ValueError: it is larger than `most_bytes`, or not UTF-8, or its name holds a NUL.
    """
    with open_regular(path, follows_link=True) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"the file is larger than {most_bytes >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8 text") from error


def reason_of(error: Exception) -> str:
    """Why a file could not be read, without the name of the file, which the message has anyway."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
