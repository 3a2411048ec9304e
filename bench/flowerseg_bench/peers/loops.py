"""What people write who do not use flowerseg: a script that takes one photo after the other.

These are foreign by intent: they call OpenCV and the runtimes themselves, as they come, and nothing
of flowerseg's but the network. They differ in what runs the network and in nothing else. Nothing
overlaps, and nothing is flushed to the disk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from flowerseg.arrays import Rgb, SizeHW
from flowerseg.model import FlowerNet

Map: TypeAlias = NDArray[Any]
"""Probability of the flower (H, W): float32 up to 1, or uint8 as the exported graph gives it."""


@dataclass(frozen=True)
class Engine:
    """A network opened by hand: a frame (H, W, 3) to its map, where `level` and more is flower."""

    infer: Callable[[Rgb], Map]
    level: float


def segment_in_turn(engine: Engine, size_hw: SizeHW, folder: Path, out: Path) -> None:
    """Every photo of a folder: decode, resize, infer, resize back, threshold, write; then the next.

    Frames are resized as the network was trained; a mask is as large as its photo, 8-bit PNG.
    """
    cv2.setNumThreads(-1)  # OpenCV's own choice, which flowerseg-predict changes in this process
    out.mkdir()
    height, width = size_hw
    for photo in sorted(folder.iterdir()):
        bgr: Any = cv2.imread(str(photo))  # None where it cannot be read, as scripts forget
        rgb: Any = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        frame: Any = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        probability = engine.infer(frame)
        probability = cv2.resize(probability, (rgb.shape[1], rgb.shape[0]))
        mask = np.where(probability >= engine.level, 255, 0).astype(np.uint8)
        cv2.imwrite(str(out / f"{photo.name}.png"), mask)


def eager(network: FlowerNet) -> Engine:
    """The notebook's way: PyTorch eager in FP32, without gradients."""

    def infer(frame: Rgb) -> Map:
        with torch.no_grad():
            logits = network(torch.from_numpy(frame)[None])
            return np.asarray(torch.sigmoid(logits)[0].numpy())

    return Engine(infer, 0.5)


def compiled(network: FlowerNet) -> Engine:
    """The same behind `torch.compile`; the first photo compiles it."""
    network.compile()
    return eager(network)


def onnxruntime_session(model: Path) -> Engine:
    """`session.run` on the CPU, with ONNX Runtime's own settings."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return Engine(lambda frame: session.run(None, {"images": frame[None]})[0][0], 128)


def openvino_model(model: Path, precision: Literal["f32", "bf16"] = "f32") -> Engine:
    """A model compiled by OpenVINO for the CPU, computing FP32 files in one of two precisions.

    As it comes it takes bfloat16 on processors that have it: a peer of ours in bfloat16 only.
    """
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision}
    compiled_model = openvino.Core().compile_model(str(model), "CPU", settings)
    return Engine(lambda frame: compiled_model(frame[None])[0][0], 128)
