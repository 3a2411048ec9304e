"""What this machine can run, tried and not guessed; for what it cannot, why, and what mends it."""

import importlib
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Compared at run time too: a source tree on the path meets any Python.
OLDEST_PYTHON = (3, 11)

State = Literal["works", "missing", "broken"]

_RTX_PIP = 'pip install "flowerseg[rtx]"'
_LIBRARY = re.compile(r"lib(nvinfer|tensorrt_rtx)\.so")


@dataclass(frozen=True)
class Finding:
    """One thing that the chain needs or can use."""

    name: str
    state: State
    detail: str
    mend: str = ""  # the command or the step that helps
    is_required: bool = False  # without it nothing runs at all


class _Missing(Exception):
    """Not here, and not needed for the rest; the message says what was found instead."""


def examine() -> list[Finding]:
    """Try every part; never raises, whatever is wrong with the machine."""
    return [
        _tried("Python", _python, "Install Python 3.11 or later.", is_required=True),
        _tried("PyTorch", _torch, "pip install torch torchvision", is_required=True),
        _tried("OpenCV", _opencv, "pip install opencv-python-headless", is_required=True),
        _tried("ONNX", _onnx, "pip install onnx onnxscript", is_required=True),
        _tried("ONNX Runtime, CPU", _ort_cpu, "pip install onnxruntime-gpu", is_required=True),
        _tried("NVIDIA GPU", _gpu, "Needs an NVIDIA GPU and its driver; the CPU works without."),
        _tried("ONNX Runtime, CUDA", _ort_cuda, "Needs a GPU; pip install onnxruntime-gpu"),
        _tried("TensorRT", _tensorrt, 'Needs a GPU; pip install "flowerseg[tensorrt]"'),
        _tried("TensorRT-RTX", _rtx, f"Builds engines without a GPU; {_RTX_PIP}"),
        _tried("OpenVINO", _openvino, 'pip install "flowerseg[openvino]"'),
        _tried("C++ compiler (for pt2)", _compiler, "apt install g++"),
        _tried("Ray (for clusters)", _ray, 'pip install "flowerseg[ray]"'),
    ]


def chain_runs(findings: list[Finding]) -> bool:
    """Whether training, ONNX export, proof, bench and prediction can run at all."""
    return all(f.state == "works" for f in findings if f.is_required)


def _tried(name: str, check: Callable[[], str], mend: str, *, is_required: bool = False) -> Finding:
    try:
        return Finding(name, "works", check(), is_required=is_required)
    except _Missing as error:
        return Finding(name, "missing", str(error), mend, is_required)
    except ModuleNotFoundError as error:
        return Finding(name, "missing", f"{error.name} is not installed", mend, is_required)
    except Exception as error:  # a doctor that dies of what it finds is of no use
        said = str(error).strip().partition("\n")[0]
        return Finding(name, "broken", f"{type(error).__name__}: {said}", mend, is_required)


def _python() -> str:
    if sys.version_info < OLDEST_PYTHON:
        raise _Missing(f"{platform.python_version()} is too old")
    return f"{platform.python_version()} on {platform.platform(terse=True)}"


def _torch() -> str:
    import torch
    import torchvision

    cuda = torch.version.cuda or "none"
    return f"{torch.__version__}, torchvision {torchvision.__version__}, built for CUDA {cuda}"


def _opencv() -> str:
    from flowerseg.images import opencv_version

    return opencv_version()


def _onnx() -> str:
    import onnx
    import onnxscript

    return f"{onnx.__version__}, onnxscript {onnxscript.__version__}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise _Missing("torch sees none")
    names = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        names.append(f"{torch.cuda.get_device_name(index)} (compute capability {major}.{minor})")
    return f"{', '.join(names)}; cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]  # torch's


def _ort_cpu() -> str:
    return _ort("cpu")


def _ort_cuda() -> str:
    _gpu()
    return _ort("cuda")


def _ort(device: str) -> str:
    """A session that really runs: listing providers says nothing about whether they load."""
    from flowerseg.backends.ort import try_provider

    return try_provider(device)


def _tensorrt() -> str:
    _gpu()
    return _builder("tensorrt")


def _rtx() -> str:
    return _builder("tensorrt_rtx")


def _builder(module: str) -> str:
    trt = importlib.import_module(module)
    if trt.Builder(trt.Logger(trt.Logger.ERROR)) is None:
        raise RuntimeError("it imports, but makes no builder")
    return f"{trt.__version__}, {', '.join(_loaded()) or 'libraries unknown'}"


def _openvino() -> str:
    import openvino

    devices = openvino.Core().available_devices
    return f"{openvino.__version__.partition('-')[0]}, devices {', '.join(devices)}"


def _compiler() -> str:
    path = shutil.which("g++") or shutil.which("clang++")
    if path is None:
        raise _Missing("neither g++ nor clang++ is on the path")
    return path


def _ray() -> str:
    return str(importlib.import_module("ray").__version__)


def _loaded() -> Iterator[str]:
    """Names of TensorRT's shared libraries in this process, on Linux."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []
    yield from sorted({line.rpartition("/")[2] for line in lines if _LIBRARY.search(line)})
