"""What the bench's tests are made of: a clock that is wound by hand, photos, a tiny model."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from flowerseg.artifact import Batch, Kind, Manifest, Precision, publish
from flowerseg.images import write_jpeg, write_png
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Proof
from flowerseg_bench.results import Results
from flowerseg_bench.suite import Plan, run_suite

SIZE_HW = (32, 32)
PLANTED = Proof("proved", "planted by a test", runtime="onnxruntime", device="cpu", streams=2)


@pytest.fixture
def tiny_onnx(tmp_path: Path) -> Path:
    """A model that keeps the contract: how green a pixel is, is its probability."""
    return write_tiny_onnx(tmp_path / "tiny.onnx", PLANTED)


@pytest.fixture
def unproven_onnx(tmp_path: Path) -> Path:
    """The same, never proved."""
    return write_tiny_onnx(tmp_path / "unproven.onnx", None)


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The tiny model measured for a moment, with labels and without a reference."""
    root = tmp_path_factory.mktemp("bench")
    model = write_tiny_onnx(root / "tiny.onnx", PLANTED)
    plan = Plan(
        models=(model,),
        data=write_labelled(root / "labelled"),
        batches=(1, 2),
        seconds=0.02,
        runtimes=("onnxruntime",),
        rounds=2,
    )
    (root / "work").mkdir()
    return run_suite(plan, root / "out", root / "work")


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Six photos of different sizes."""
    folder = tmp_path / "photos"
    for i in range(6):
        write_jpeg(folder / f"{i}.jpg", draw_photo(i))
    return folder


def write_labelled(root: Path) -> Path:
    """Photos whose green half is the flower, and masks that say so; some fall into `val`."""
    for i in range(20):
        rgb = draw_photo(i)
        mask = np.where(rgb[..., 1] >= 128, 255, 0).astype(np.uint8)
        write_png(root / "photos" / f"flower{i}.png", rgb)
        write_png(root / "masks" / f"flower{i}.png", mask)
    return root


def write_tiny_onnx(path: Path, proof: Proof | None) -> Path:
    height, width = SIZE_HW
    graph = helper.make_graph(
        [helper.make_node("Gather", ["images", "green"], ["foreground"], axis=3)],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", height, width, 3])],
        [helper.make_tensor_value_info("foreground", TensorProto.UINT8, ["batch", height, width])],
        [helper.make_tensor("green", TensorProto.INT64, [], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = Manifest(
        kind=Kind.ONNX,
        architecture="green",
        precision=Precision.FP32,
        preprocess=Preprocess(size_hw=SIZE_HW),
        batch=Batch(1, 2, 4),
        proof=proof,
    )
    publish(path, manifest, lambda temporary: onnx.save(model, str(temporary)))
    return path


def draw_photo(seed: int) -> np.ndarray:
    """Left half red, right half green, a multiple of the frame's size."""
    height, width = 64 + 32 * (seed % 2), 64
    rgb = np.full((height, width, 3), 40 + seed, np.uint8)
    rgb[:, : width // 2, 0] = 220
    rgb[:, width // 2 :, 1] = 220
    return rgb
