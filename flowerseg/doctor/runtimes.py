"""What trains, converts and runs networks: each runtime does a little of what it is here for."""

import ctypes
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from flowerseg.doctor.finding import Trouble
from flowerseg.doctor.gpu import require_gpu
from flowerseg.doctor.packages import ORT_PACKAGE

# As in pyproject.toml.
OLDEST_TORCH = (2, 9)
OLDEST_TENSORRT, NEWER_THAN_TENSORRT = (10, 12), (12,)

MAPS = Path("/proc/self/maps")
_PROGRAM = "#include <vector>\nint main() { return std::vector<int>(1).front(); }\n"
_COMPILE_S = 60.0


def try_pytorch() -> str:
    """torch and torchvision import, which fails where they are not of one build."""
    import torch
    import torchvision

    if _numbers(torch.__version__) < OLDEST_TORCH:
        mend = 'pip install "torch>=2.9" torchvision'
        raise Trouble("broken", f"{torch.__version__} is too old", mend)
    cuda = f"CUDA runtime {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return f"{torch.__version__}, torchvision {torchvision.__version__}, {cuda}"


def try_opencv() -> str:
    """OpenCV imports, which takes more than its files where it was built for a screen."""
    from flowerseg.images import opencv_version

    return opencv_version()


def try_onnx() -> str:
    """What writes and checks ONNX files imports."""
    import onnx
    import onnxscript

    return f"{onnx.__version__}, onnxscript {onnxscript.__version__}"


def try_ort_cpu() -> str:
    """A session computes on the CPU."""
    from flowerseg.backends.ort import try_provider

    return try_provider("cpu")


def try_ort_cuda() -> str:
    """A session computes on the GPU: that the provider is listed says nothing."""
    import onnxruntime

    from flowerseg.backends.ort import try_provider
    from flowerseg.errors import BackendUnavailable

    require_gpu()
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise Trouble(
            "missing",
            f"onnxruntime {onnxruntime.__version__} is a build without CUDA",
            f"pip uninstall -y onnxruntime\npip install {ORT_PACKAGE}",
        )
    try:
        return try_provider("cuda")
    except BackendUnavailable as error:
        raise _unloaded_provider(onnxruntime, str(error).partition(":")[0]) from error


def try_tensorrt() -> str:
    """TensorRT is of a version that flowerseg knows, and makes a builder on the GPU."""
    trt = importlib.import_module("tensorrt")
    version = str(trt.__version__)
    if not OLDEST_TENSORRT <= _numbers(version) < NEWER_THAN_TENSORRT:
        raise Trouble("broken", f"{version} is not within >=10.12,<12")
    require_gpu()
    _make_builder(trt)
    libraries = libraries_loaded("nvinfer")
    if len(libraries) > 1:
        raise Trouble(
            "doubt",
            f"{version}, but {' and '.join(libraries)} are loaded in one process: "
            "an engine may crash, or be refused",
            "Keep one: pip list | grep -i tensorrt; echo $LD_LIBRARY_PATH",
        )
    return ", ".join([version, *libraries, "makes a builder"])


def try_rtx() -> str:
    """TensorRT-RTX makes a builder, for which it needs no GPU."""
    trt = importlib.import_module("tensorrt_rtx")
    _make_builder(trt)
    words = [str(trt.__version__), *libraries_loaded("tensorrt_rtx"), "makes a builder"]
    capability = _capability_here()
    if capability and capability not in _rtx_capabilities():
        raise Trouble(
            "doubt",
            f"{', '.join(words)}; this GPU's compute capability {capability} is in none of its "
            "lists, so its engines may not run here",
            "Here, use TensorRT: flowerseg-export MODEL --to tensorrt --fp16",
        )
    return ", ".join(words)


def try_openvino() -> str:
    """OpenVINO finds a device."""
    import openvino

    devices = openvino.Core().available_devices
    if not devices:
        raise Trouble("broken", f"{openvino.__version__} finds no device")
    return f"{openvino.__version__.partition('-')[0]}, devices {', '.join(devices)}"


def try_compiler() -> str:
    """The compiler that AOTInductor will call compiles a program with a standard header."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    words = shlex.split(os.environ.get("CXX") or usual)
    path = shutil.which(words[0])
    if path is None:
        other = "\nOr use the one that is here: export CXX=clang++" * bool(shutil.which("clang++"))
        raise Trouble("missing", f"{words[0]} is not on the path", f"apt install g++{other}")
    with TemporaryDirectory(prefix="flowerseg-doctor-") as folder:
        source = Path(folder) / "program.cpp"
        source.write_text(_PROGRAM, encoding="ascii")
        command = [*words, str(source), "-o", str(source.with_suffix(""))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), "no reason")
        raise Trouble("broken", f"{path} does not compile: {said}")
    return f"{path}, compiles"


def try_ray() -> str:
    """Ray Data imports, with all that it needs."""
    importlib.import_module("ray.data")
    return str(importlib.import_module("ray").__version__)


def try_triton_client() -> str:
    """The client that asks a Triton server over gRPC imports."""
    importlib.import_module("tritonclient.grpc")
    return metadata.version("tritonclient")  # the module itself tells none


def libraries_loaded(name: str, maps: Path = MAPS) -> list[str]:
    """Files of the shared library lib`name`.so in this process, on Linux; empty elsewhere."""
    return sorted(set(_mapped(re.compile(rf"/(lib{name}\.so[.\d]*)$"), maps)))


def _mapped(library: re.Pattern[str], maps: Path) -> Iterator[str]:
    text = maps.read_text(encoding="utf-8", errors="replace") if maps.is_file() else ""
    for line in text.splitlines():
        if found := library.search(line.removesuffix(" (deleted)")):
            yield found[1]


def _make_builder(trt: ModuleType) -> None:
    if trt.Builder(trt.Logger(trt.Logger.ERROR)) is None:
        raise Trouble("broken", f"{trt.__version__} imports, but makes no builder")


def _unloaded_provider(onnxruntime: ModuleType, said: str) -> Trouble:
    """The CUDA that each was built for, and the library that the system does not find."""
    import torch

    detail = said + _library_not_found(onnxruntime)
    wanted, here = str(getattr(onnxruntime, "cuda_version", "")), str(torch.version.cuda)
    if wanted.partition(".")[0] in ("", here.partition(".")[0]):
        return Trouble("broken", detail, f"pip install --upgrade {ORT_PACKAGE} torch torchvision")
    return Trouble(
        "broken",
        f"{detail}; it is built for CUDA {wanted}, PyTorch for CUDA {here}",
        "Both must be for one CUDA: onnxruntime.ai/docs/install, pytorch.org/get-started",
    )


def _library_not_found(onnxruntime: ModuleType) -> str:
    """ONNX Runtime only logs what its provider lacks; the system's loader says it again."""
    folder = Path(str(onnxruntime.__file__)).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        library, _, cannot_open = str(error).partition(": cannot open")
        return f": {library} is not found" if cannot_open else ""
    return ""


def _capability_here() -> str:
    import torch

    from flowerseg.backends.device import compute_capability

    return compute_capability("cuda:0") if torch.cuda.is_available() else ""


def _rtx_capabilities() -> list[str]:
    from flowerseg.backends.trt import RTX_LISTED

    return re.findall(r"\d+\.\d+", RTX_LISTED)


def _numbers(version: str) -> tuple[int, ...]:
    """11.1.0.106 -> (11, 1)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
