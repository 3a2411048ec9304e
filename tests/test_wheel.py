"""The wheel, and not the checkout: what is in it, and that it runs from an empty folder."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flowerseg.paint import write_painted_dataset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "flowerseg": ROOT / "flowerseg",
    "flowerseg_export": ROOT / "export/flowerseg_export",
    "flowerseg_bench": ROOT / "bench/flowerseg_bench",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True, capture_output=True)
    return folder


def _python(installed: Path, folder: Path, *arguments: str) -> str:
    """What a Python says that finds the installed wheel before the checkout, from elsewhere."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    ran = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_top_level_is_the_three_packages(wheel: Path, names: list[str]) -> None:
    version = wheel.name.split("-")[1]
    info = f"flowerseg-{version}.dist-info"
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, info}
    assert f"{info}/licenses/LICENSE" in names


def test_every_file_of_the_packages_is_in_it_and_no_other(names: list[str]) -> None:
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    model = "flowerseg/models/flower_mobilenet_v3.pt"
    expected |= {model, f"{model}.json"}
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_installed_flowerseg_segments_before_anything_is_trained(
    installed: Path, tmp_path: Path
) -> None:
    write_painted_dataset(tmp_path / "painted", 4, (64, 80), seed=0)
    photos, out = tmp_path / "painted/jpg", tmp_path / "out"
    _python(installed, tmp_path, "-m", "flowerseg", "predict", str(photos), "--out", str(out))
    assert len(list((out / "masks").iterdir())) == 4
    model = json.loads((out / "run.json").read_text())
    assert "flower_mobilenet_v3.pt" in json.dumps(model)


def test_every_package_is_typed_and_no_tests_are_shipped(names: list[str]) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    tests = ("test_", "conftest")  # flowerseg/selftest.py is none
    assert not [name for name in names if Path(name).name.startswith(tests)]


def test_commands_are_its_entry_points(wheel: Path, names: list[str]) -> None:
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(entry_points).decode()
    assert "flowerseg = flowerseg.cli:main" in text
    assert "flowerseg-export = flowerseg_export.cli:export" in text
    assert text.count(" = ") == 8


def test_wheel_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    shown = _python(installed, tmp_path, "-m", "flowerseg", "--help")
    assert "From a folder of labelled photos to a GPU engine you can trust." in shown
    assert not list(tmp_path.iterdir())


def test_every_module_is_imported_from_the_wheel(
    installed: Path, names: list[str], tmp_path: Path
) -> None:
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in names
        if name.endswith(".py") and not name.endswith("__main__.py")
    ]
    program = (
        "import importlib, json, sys\n"
        "print(json.dumps([importlib.import_module(m).__file__ for m in sys.argv[1:]]))"
    )
    files = json.loads(_python(installed, tmp_path, "-c", program, *modules))
    assert len(files) > 40
    assert all(Path(file).is_relative_to(installed) for file in files)
