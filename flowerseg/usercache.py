"""Where things are kept that only save time."""

import os
from pathlib import Path

from flowerseg.errors import OutputError


def user_cache(name: str) -> Path:
    """`flowerseg/<name>` in the user's cache folder (XDG Base Directory Specification).

    Raises:
        OutputError: the user has no home folder, and XDG_CACHE_HOME is not set.
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    return (Path(chosen) if chosen else _home() / ".cache") / "flowerseg" / name


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise OutputError(
            "This user has no home folder, so there is no place for caches. Set XDG_CACHE_HOME to "
            "a folder that you can write to."
        ) from error
