"""Where things are kept that only save time."""

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """`flowerseg/<name>` in the user's cache folder (XDG Base Directory Specification)."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "flowerseg" / name
