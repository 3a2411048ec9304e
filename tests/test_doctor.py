"""The doctor: tries everything, survives everything. Machines are made up, texts are by hand."""

import ctypes
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from flowerseg.cli.doctor import doctor
from flowerseg.doctor import (
    PARTS,
    Finding,
    Part,
    State,
    Trouble,
    apart,
    chain_runs,
    examine,
    runtimes,
    tried,
)
from flowerseg.doctor import gpu as gpu_module
from flowerseg.doctor.apart import examine_apart
from flowerseg.doctor.gpu import Driver, driver_here, has_nvidia_device, why_no_gpu
from flowerseg.doctor.runtimes import libraries_loaded
from flowerseg.errors import BackendUnavailable

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
OLD_DRIVER = Driver("535.104.05", "12.2")


def found(name: str) -> Finding:
    """What the doctor finds here of one part."""
    (part,) = (part for part in PARTS if part.name == name)
    return tried(part)


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    """Let `import name` give a module with this content."""
    module = ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which torch sees an H200."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a program of that name and shell script first on the path."""

    def write(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return write


# --- this machine ---


def test_what_the_test_setup_installs_works() -> None:
    names = ["PyTorch", "OpenCV", "ONNX", "ONNX Runtime, CPU", "Other packages", "OpenVINO"]
    for name in [*names, "Ray (clusters)", "Triton client"]:
        assert found(name).state == "works", found(name)
    assert found("TensorRT-RTX").is_usable
    assert "CPUExecutionProvider" in found("ONNX Runtime, CPU").detail


def test_versions_that_are_asked_for_are_those_of_the_project() -> None:
    def written(package: str, lines: list[str]) -> str:
        return next(line for line in lines if re.match(rf"{package}\b", line))

    extras = PROJECT["optional-dependencies"]
    assert written("torch", PROJECT["dependencies"]) == "torch>=2.9"
    assert written("tensorrt", extras["tensorrt"]) == "tensorrt>=10.12,<12"
    assert runtimes.OLDEST_TORCH == (2, 9)
    assert (runtimes.OLDEST_TENSORRT, runtimes.NEWER_THAN_TENSORRT) == ((10, 12), (12,))


def test_every_part_that_can_be_missing_says_what_mends_it() -> None:
    silent = [part.name for part in PARTS if not part.mend]
    assert silent == ["Rival packages"]  # its mend depends on what is found
    extras = {name for part in PARTS for name in re.findall(r"flowerseg\[(\w+)\]", part.mend)}
    assert extras <= set(PROJECT["optional-dependencies"])


# --- surviving ---


def test_a_machine_on_which_nothing_imports_is_examined_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = "torch torchvision cv2 onnx onnxscript onnxruntime scipy tensorrt tensorrt_rtx"
    for name in [*modules.split(), "flowerseg.images", "openvino", "ray.data", "tritonclient.grpc"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("PATH", "")
    findings = examine()
    assert [f.name for f in findings] == [part.name for part in PARTS]
    assert not chain_runs(findings)
    by_name = {f.name: f for f in findings}
    assert by_name["PyTorch"].detail == "torch is not installed"
    assert by_name["PyTorch"].mend == "pip install torch torchvision"
    assert by_name["Other packages"].detail == "not installed: scipy"
    assert by_name["Other packages"].mend == "pip install scipy"
    assert by_name["OpenVINO"].mend == 'pip install "flowerseg[openvino]"'


@pytest.mark.parametrize(
    ("state", "detail", "content"),
    [
        ("missing", "no_such_dependency is not installed", "import no_such_dependency"),
        ("missing", "ModuleNotFoundError", "raise ModuleNotFoundError"),
        ("broken", "SystemExit: 3", "raise SystemExit(3)"),
        ("broken", "OSError: libc.so: cannot open", "raise OSError('libc.so: cannot open\\nmore')"),
        ("broken", "Panic: lib.rs", "class Panic(BaseException): pass\nraise Panic('lib.rs')"),
        ("broken", "Odd", "class Odd(Exception):\n  def __str__(_): return 1 / 0\nraise Odd"),
        ("broken", "OSError: no Core", "def __getattr__(name): raise OSError(f'no {name}')"),
        ("broken", "AttributeError: ", "import warnings; warnings.warn('driver too old')"),
    ],
)
def test_whatever_an_import_does_is_a_finding(
    state: State, detail: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    finding = found("OpenVINO")
    assert finding.state == state
    assert finding.detail.startswith(detail)
    assert "\n" not in finding.detail
    mends: dict[State, str] = {
        "missing": 'pip install "flowerseg[openvino]"',  # would do nothing where it is installed
        "broken": "pip install --force-reinstall openvino",
    }
    assert finding.mend == mends[state]


def test_ctrl_c_is_no_finding() -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tried(Part("part", interrupted))


_CHILD = """
import json, os, signal, sys
def answer(number):
    finding = {"name": f"part {number}", "state": "works", "detail": ""}
    print(json.dumps(finding), flush=True)
if sys.argv[1] == "0":
    answer(0)
    END
else:
    answer(int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("end", "detail"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashes the process (SIGSEGV)"),
        ("os._exit(7)", "ends the process with exit code 7"),
        ("sys.exit('no libc')", "ends the process with exit code 1: no libc"),
        ("signal.pause()", "no answer within 2 s"),
    ],
)
def test_a_part_that_takes_the_process_down_is_a_finding_and_the_next_ones_are_tried(
    end: str, detail: str
) -> None:
    parts = [Part(f"part {n}", str, "install it", f"package{n}", True) for n in range(3)]
    child = [sys.executable, "-c", _CHILD.replace("END", end)]
    findings = examine_apart(parts, child, longest_s=2)
    assert findings == [
        Finding("part 0", "works", ""),
        Finding("part 1", "broken", detail, "pip install --force-reinstall package1", True),
        Finding("part 2", "works", ""),
    ]


def test_what_libraries_print_is_no_answer() -> None:
    first = len(PARTS) - 2
    words = [sys.executable, "-m", "flowerseg.doctor", str(first)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    names = [json.loads(line)["name"] for line in done.stdout.splitlines()]
    assert names == [part.name for part in PARTS[first:]]


# --- the GPU and its driver ---


@pytest.mark.parametrize(
    ("built_for", "driver", "hidden_by", "detail", "mend"),
    [
        (
            "13.0",
            OLD_DRIVER,
            None,
            "PyTorch is built for CUDA 13.0, newer than the driver (535.104.05, runs CUDA up to "
            "12.2)",
            "Update the driver to 580 or later: nvidia.com/drivers\n"
            "Or install a PyTorch for CUDA 12: pytorch.org/get-started",
        ),
        (
            None,
            OLD_DRIVER,
            None,
            "a driver is here, but this PyTorch is built without CUDA",
            "pip install --force-reinstall torch torchvision",
        ),
        (
            "12.8",  # a driver for any CUDA 12 runs it
            OLD_DRIVER,
            "",
            "CUDA_VISIBLE_DEVICES='' hides it",
            "unset CUDA_VISIBLE_DEVICES",
        ),
        (
            "12.8",
            Driver("", "12.2"),
            None,
            "the driver answers (runs CUDA up to 12.2), but torch sees no GPU",
            "nvidia-smi",
        ),
    ],
)
def test_the_reason_why_torch_sees_no_gpu_is_told(
    built_for: str | None, driver: Driver, hidden_by: str | None, detail: str, mend: str
) -> None:
    trouble = why_no_gpu(built_for, driver, hidden_by)
    assert (trouble.state, trouble.detail, trouble.mend) == ("broken", detail, mend)


@pytest.mark.parametrize(
    ("vendor", "kind", "state"),
    [
        ("0x10de", "0x030200", "broken"),  # a GPU without its driver
        ("0x10de", "0x040300", "missing"),  # NVIDIA's sound device
        ("0x1002", "0x030000", "missing"),  # another maker's GPU
    ],
)
def test_a_gpu_without_a_driver_is_told_from_no_gpu(
    vendor: str, kind: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")
    there = has_nvidia_device(tmp_path)
    assert there == (state == "broken")
    monkeypatch.setattr(gpu_module, "has_nvidia_device", lambda: there)
    assert why_no_gpu("13.0", None, None).state == state


def test_without_sys_and_proc_nothing_is_told_and_nothing_breaks(tmp_path: Path) -> None:
    assert not has_nvidia_device(tmp_path / "absent")
    assert libraries_loaded("nvinfer", tmp_path / "absent") == []


_SMI = """cat <<'END'
| NVIDIA-SMI 535.104.05   Driver Version: 535.104.05   CUDA Version: 12.2     |
END"""


def test_the_driver_is_asked_through_nvml_then_nvidia_smi_then_its_library(
    program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("libnvidia-ml.so.1 is of another driver")

    def tell(number: Any) -> int:
        number._obj.value = 12040
        return 0

    fake(
        monkeypatch,
        "pynvml",
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.65.06",
        nvmlSystemGetCudaDriverVersion_v2=lambda: 13000,
    )
    program("nvidia-smi", _SMI)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(cuDriverGetVersion=tell))
    assert driver_here() == Driver("580.65.06", "13.0")

    fake(monkeypatch, "pynvml", nvmlInit=broken)
    assert driver_here() == OLD_DRIVER

    program("nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    assert driver_here() == Driver("", "12.4")

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(cuDriverGetVersion=lambda _: 34))
    assert driver_here() is None  # the toolkit's stub answers everything with 34


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_what_needs_one_is_missing_and_not_broken() -> None:
    for name in ("cuDNN", "ONNX Runtime, CUDA"):
        assert found(name) == Finding(name, "missing", "no GPU to try it on")


@pytest.mark.gpu
def test_a_gpu_that_is_here_works_and_is_described() -> None:
    assert re.fullmatch(
        r".+, compute capability \d+\.\d, \d+ GiB(;.*)?", found("NVIDIA GPU").detail
    )
    assert re.fullmatch(r"[\d.]*(, )?runs CUDA up to \d+\.\d+", found("NVIDIA driver").detail)
    assert re.fullmatch(r"\d+\.\d+\.\d+, convolves", found("cuDNN").detail)


@pytest.mark.gpu
@pytest.mark.ort_cuda
def test_onnx_runtime_computes_on_a_gpu_that_is_here() -> None:
    assert found("ONNX Runtime, CUDA").state == "works"


# --- ONNX Runtime and TensorRT ---


@pytest.mark.usefixtures("with_gpu")
def test_an_onnx_runtime_without_cuda_is_to_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["CPUExecutionProvider"]
    fake(
        monkeypatch,
        "onnxruntime",
        __version__="1.22.0",
        get_available_providers=lambda: providers,
    )
    finding = found("ONNX Runtime, CUDA")
    assert finding.state == "missing"
    assert finding.detail == "onnxruntime 1.22.0 is a build without CUDA"
    assert finding.mend.startswith("pip uninstall -y onnxruntime\npip install onnxruntime")


@pytest.mark.usefixtures("with_gpu")
def test_a_provider_built_for_another_cuda_is_named_with_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(device: str) -> str:
        raise BackendUnavailable("ONNX Runtime 1.22.0 runs ['CPUExecutionProvider']: did not load")

    fake(
        monkeypatch,
        "onnxruntime",
        __file__="/absent/onnxruntime/__init__.py",
        cuda_version="12.8",
        get_available_providers=lambda: ["CUDAExecutionProvider"],
    )
    monkeypatch.setattr("flowerseg.backends.ort.try_provider", refuse)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    finding = found("ONNX Runtime, CUDA")
    assert finding.state == "broken"
    assert finding.detail == (
        "ONNX Runtime 1.22.0 runs ['CPUExecutionProvider']: "
        "/absent/onnxruntime/capi/libonnxruntime_providers_cuda.so is not found; "
        "it is built for CUDA 12.8, PyTorch for CUDA 13.0"
    )


@pytest.mark.parametrize("version", ["8.6.1", "10.11.0.33", "12.0.0.1"])
def test_a_tensorrt_outside_the_range_is_refused_by_its_version(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, "tensorrt", __version__=version)
    finding = found("TensorRT")
    assert (finding.state, finding.detail) == ("broken", f"{version} is not within >=10.12,<12")


def fake_tensorrt(monkeypatch: pytest.MonkeyPatch, name: str, builder: object) -> None:
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    fake(monkeypatch, name, __version__="11.1.0.106", Logger=logger, Builder=lambda _: builder)


MAPS = """\
7f00-7f01 r-xp 0 08:01 11 /usr/lib/x86_64-linux-gnu/libnvinfer.so.10.13.3
7f02-7f03 rw-p 0 08:01 11 /usr/lib/x86_64-linux-gnu/libnvinfer.so.10.13.3
7f04-7f05 r-xp 0 08:01 12 /venv/tensorrt_libs/libnvinfer.so.11 (deleted)
7f06-7f07 r-xp 0 08:01 13 /venv/tensorrt_libs/libnvinfer_plugin.so.11
7f08-7f09 r-xp 0 08:01 14 /venv/tensorrt_libs/notlibnvinfer.so.9
"""


@pytest.mark.usefixtures("with_gpu")
def test_two_libnvinfer_in_one_process_are_a_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maps").write_text(MAPS)
    loaded = libraries_loaded("nvinfer", tmp_path / "maps")
    assert loaded == ["libnvinfer.so.10.13.3", "libnvinfer.so.11"]

    fake_tensorrt(monkeypatch, "tensorrt", object())
    monkeypatch.setattr(runtimes, "libraries_loaded", lambda name: loaded)
    finding = found("TensorRT")
    assert (finding.state, finding.is_usable) == ("doubt", True)
    assert finding.detail == (
        "11.1.0.106, but libnvinfer.so.10.13.3 and libnvinfer.so.11 are loaded in one process: "
        "an engine may crash, or be refused"
    )


@pytest.mark.usefixtures("with_gpu")
def test_a_tensorrt_that_makes_no_builder_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tensorrt(monkeypatch, "tensorrt", None)
    finding = found("TensorRT")
    assert finding.detail == "11.1.0.106 imports, but makes no builder"


@pytest.mark.usefixtures("with_gpu")
def test_rtx_on_a_gpu_that_it_does_not_list_is_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tensorrt(monkeypatch, "tensorrt_rtx", object())
    finding = found("TensorRT-RTX")
    assert finding.state == "doubt"
    assert "capability 9.0 is in none of its lists" in finding.detail
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    assert found("TensorRT-RTX").state == "works"


# --- packages and the compiler ---


def test_packages_that_install_one_module_are_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime", "onnxruntime-gpu", "opencv-python", "opencv-python-headless"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    finding = found("Rival packages")
    assert finding.state == "doubt"
    assert finding.detail == (
        "opencv-python and opencv-python-headless both install cv2, and one shadows the other; "
        "onnxruntime and onnxruntime-gpu both install onnxruntime, and one shadows the other"
    )
    assert finding.mend.splitlines()[:2] == [
        "pip uninstall -y opencv-python opencv-python-headless",
        "pip install opencv-python-headless",
    ]
    installed = {"onnxruntime-gpu"}
    assert found("Rival packages").state == "works"


def test_a_compiler_without_its_headers_is_broken(
    program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("cc-broken", "echo 'a.cpp:1:10: fatal error: vector: No such file' >&2; exit 1")
    monkeypatch.setenv("CXX", "cc-broken -O2")
    finding = found("C++ compiler (pt2)")
    assert finding.state == "broken"
    assert finding.detail.endswith(
        "does not compile: a.cpp:1:10: fatal error: vector: No such file"
    )
    assert finding.mend == "apt install g++"


def test_a_compiler_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "g++-99")
    assert found("C++ compiler (pt2)") == Finding(
        "C++ compiler (pt2)", "missing", "g++-99 is not on the path", "apt install g++"
    )


# --- the command ---

WORKS = Finding("PyTorch", "works", "2.13.0+cu130, torchvision 0.28.0", is_required=True)
DOUBT = Finding(
    "Rival packages",
    "doubt",
    "opencv-python and opencv-python-headless both install cv2, and one shadows the other",
    "pip uninstall -y opencv-python opencv-python-headless\npip install opencv-python-headless",
)
NO_GPU = Finding("NVIDIA GPU", "missing", "this machine has none")
BROKEN = Finding("ONNX", "broken", "OSError: no", "pip install onnx onnxscript", is_required=True)


def run(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], *words: str) -> tuple[int, str]:
    monkeypatch.setattr(apart, "examine_apart", lambda: findings)
    result = CliRunner().invoke(doctor, list(words))
    return result.exit_code, result.output


def test_the_report_reads_in_columns_and_what_mends_is_never_broken_over_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, output = run(monkeypatch, [WORKS, DOUBT, NO_GPU])
    assert code == 0
    assert (
        output
        == """\
works    PyTorch             2.13.0+cu130, torchvision 0.28.0
doubt    Rival packages      opencv-python and opencv-python-headless both
                             install cv2, and one shadows the other
         → pip uninstall -y opencv-python opencv-python-headless
         → pip install opencv-python-headless
missing  NVIDIA GPU          this machine has none

The chain runs here on the CPU.
"""
    )


def test_without_a_required_part_the_command_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run(monkeypatch, [WORKS, BROKEN, NO_GPU])
    assert code == 1
    assert "         → pip install onnx onnxscript\n" in output
    assert output.endswith("Error: the chain cannot run here without ONNX.\n")


def test_a_doubt_about_a_required_part_does_not_stop_the_chain() -> None:
    doubted = Finding("ONNX", "doubt", "", is_required=True)
    assert chain_runs([WORKS, doubted, NO_GPU])
    assert not chain_runs([WORKS, BROKEN])


def test_json_has_all_of_every_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run(monkeypatch, [WORKS, NO_GPU], "--json")
    assert code == 0
    assert json.loads(output) == [
        {
            "name": "PyTorch",
            "state": "works",
            "detail": "2.13.0+cu130, torchvision 0.28.0",
            "mend": "",
            "is_required": True,
        },
        {
            "name": "NVIDIA GPU",
            "state": "missing",
            "detail": "this machine has none",
            "mend": "",
            "is_required": False,
        },
    ]


def test_a_trouble_without_a_mend_of_its_own_takes_the_parts() -> None:
    def check() -> str:
        raise Trouble("missing", "not here")

    assert tried(Part("part", check, "mend it")).mend == "mend it"


@pytest.mark.slow
def test_the_real_examination_ends_with_the_verdict() -> None:
    result = CliRunner().invoke(doctor, [])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith("The chain runs here")
    shown = [line for line in result.output.splitlines() if "→" not in line]
    assert max(map(len, shown)) <= 80
