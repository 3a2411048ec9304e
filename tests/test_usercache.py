"""The user's cache folder: from the environment, from the home, or refused."""

from pathlib import Path

import pytest

from flowerseg.errors import OutputError
from flowerseg.usercache import user_cache


def test_cache_folder_follows_the_environment_or_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/rose")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache("a") == Path("/home/rose/.cache/flowerseg/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert user_cache("a") == Path("/caches/flowerseg/a")


def test_user_without_a_home_is_told_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(OutputError, match="Set XDG_CACHE_HOME to a folder"):
        user_cache("a")
