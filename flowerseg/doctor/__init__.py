"""What this machine can run, tried and not guessed; for what it cannot, why, and what mends it.

`finding.py` what is found and how it is survived · `gpu.py`, `packages.py`, `runtimes.py` what is
tried · `apart.py` the same in a process of its own, which a broken library may take down.
"""

from collections.abc import Sequence

from flowerseg.doctor.finding import Check, Finding, Part, State, Trouble, tried
from flowerseg.doctor.gpu import try_cudnn, try_driver, try_gpu
from flowerseg.doctor.packages import NEEDED, ORT_PACKAGE, try_needed, try_python, try_rivals
from flowerseg.doctor.runtimes import (
    try_compiler,
    try_onnx,
    try_opencv,
    try_openvino,
    try_ort_cpu,
    try_ort_cuda,
    try_pytorch,
    try_ray,
    try_rtx,
    try_tensorrt,
    try_triton_client,
)

__all__ = ["PARTS", "Finding", "Part", "State", "Trouble", "chain_runs", "examine", "tried"]


def _pip(name: str, check: Check, packages: str, *, is_required: bool = False) -> Part:
    return Part(name, check, f"pip install {packages}", packages, is_required)


def _extra(name: str, check: Check, extra: str, packages: str) -> Part:
    return Part(name, check, f'pip install "flowerseg[{extra}]"', packages)


PARTS = (
    Part("Python", try_python, "Install Python 3.11 or later.", is_required=True),
    _pip("PyTorch", try_pytorch, "torch torchvision", is_required=True),
    _pip("OpenCV", try_opencv, "opencv-python-headless", is_required=True),
    _pip("ONNX", try_onnx, "onnx onnxscript", is_required=True),
    _pip("ONNX Runtime, CPU", try_ort_cpu, ORT_PACKAGE, is_required=True),
    _pip("Other packages", try_needed, " ".join(NEEDED), is_required=True),
    Part("Rival packages", try_rivals),
    Part("NVIDIA driver", try_driver, "Install the driver: nvidia.com/drivers"),
    Part("NVIDIA GPU", try_gpu, "nvidia-smi"),
    _pip("cuDNN", try_cudnn, "torch torchvision"),
    _pip("ONNX Runtime, CUDA", try_ort_cuda, ORT_PACKAGE),
    Part("TensorRT", try_tensorrt, 'With a GPU: pip install "flowerseg[tensorrt]"', "tensorrt"),
    _extra("TensorRT-RTX", try_rtx, "rtx", "tensorrt-rtx"),
    _extra("OpenVINO", try_openvino, "openvino", "openvino"),
    Part("C++ compiler (pt2)", try_compiler, "apt install g++"),
    _extra("Ray (clusters)", try_ray, "ray", '"ray[data]"'),
    _extra("Triton client", try_triton_client, "triton", '"tritonclient[grpc]"'),
)


def examine(parts: Sequence[Part] = PARTS) -> list[Finding]:
    """Try every part; never raises, whatever is wrong with the machine."""
    return [tried(part) for part in parts]


def chain_runs(findings: Sequence[Finding]) -> bool:
    """Whether training, ONNX export, proof, bench and prediction can run at all."""
    return all(finding.is_usable for finding in findings if finding.is_required)
