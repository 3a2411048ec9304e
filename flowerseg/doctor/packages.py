"""Python packages: those that are always needed, and those that overwrite one another."""

import importlib
import importlib.util
import platform
import sys
from importlib import metadata

from flowerseg.doctor.finding import Trouble

# Compared at run time too: a source tree on the path meets any Python.
OLDEST_PYTHON = (3, 11)
NEEDED = ("numpy", "scipy", "matplotlib", "jinja2")
ORT_PACKAGE = "onnxruntime" if sys.platform == "darwin" else "onnxruntime-gpu"

# Packages that install the same module, each over the other's files, and the one to have.
RIVALS = {
    "cv2": ("opencv-python-headless", ("opencv-python", "opencv-python-headless")),
    "onnxruntime": (
        ORT_PACKAGE,
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    ),
    "tensorrt": ('"flowerseg[tensorrt]"', ("tensorrt-cu12", "tensorrt-cu13")),
}


def try_python() -> str:
    """The interpreter is new enough."""
    if sys.version_info < OLDEST_PYTHON:
        raise Trouble("broken", f"{platform.python_version()} is too old")
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def try_needed() -> str:
    """The plain packages that every command needs can be imported."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise Trouble("missing", f"not installed: {', '.join(absent)}", _install(*absent))
    for name in NEEDED:
        importlib.import_module(name)
    return ", ".join(f"{name} {metadata.version(name)}" for name in NEEDED)


def try_rivals() -> str:
    """No two packages write the same module."""
    found = {module: _installed(names) for module, (_, names) in RIVALS.items()}
    clashes = {module: names for module, names in found.items() if len(names) > 1}
    if not clashes:
        return "none that overwrite each other"
    raise Trouble(
        "doubt",
        "; ".join(
            f"{' and '.join(names)} both install {module}, and one shadows the other"
            for module, names in clashes.items()
        ),
        "\n".join(
            f"pip uninstall -y {' '.join(names)}\n{_install(RIVALS[module][0])}"
            for module, names in clashes.items()
        ),
    )


def _installed(names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def _install(*names: str) -> str:
    return f"pip install {' '.join(names)}"
