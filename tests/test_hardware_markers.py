"""The one place that skips: a reason where hardware is missing, a failure where it is required."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def setup(request: pytest.FixtureRequest) -> Any:
    """The hook of conftest.py."""
    conftest = str(Path(__file__).with_name("conftest.py"))
    plugins = request.config.pluginmanager.get_plugins()
    (found,) = [plugin for plugin in plugins if getattr(plugin, "__file__", "") == conftest]
    return found.pytest_runtest_setup


def _item(*markers: str) -> Any:
    return SimpleNamespace(get_closest_marker=lambda name: name if name in markers else None)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("required", ["", "tensorrt", "gpus"])
def test_missing_gpu_skips_with_a_reason(
    setup: Any, required: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWERSEG_REQUIRE", required)
    with pytest.raises(pytest.skip.Exception, match="torch sees no CUDA GPU here"):
        setup(_item("gpu"))


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("marker", ["gpu", "tensorrt"])
def test_required_hardware_that_is_missing_is_a_failure(
    setup: Any, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWERSEG_REQUIRE", "gpu, tensorrt")
    with pytest.raises(pytest.fail.Exception, match=f"FLOWERSEG_REQUIRE names {marker}, but "):
        setup(_item(marker))


def test_test_without_marker_always_runs(setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWERSEG_REQUIRE", "gpu,tensorrt")
    setup(_item("slow"))
