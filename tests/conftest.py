"""What the tests share: painted flowers, a small network that segments them, and its exports.

Session fixtures are files and networks that no test may change: copy first (`copied`).
"""

import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.mobilenetv3 import InvertedResidual

from flowerseg.arrays import FLOWER, Images
from flowerseg.artifact import (
    Artifact,
    Batch,
    Kind,
    Manifest,
    Precision,
    manifest_path,
    open_artifact,
)
from flowerseg.checkpoint import save_checkpoint
from flowerseg.data import PhotoSet, open_photos
from flowerseg.evaluate import read_pair
from flowerseg.model import Architecture, FlowerNet
from flowerseg.paint import write_painted_dataset
from flowerseg.preprocess import Preprocess, frame_from_labels, frame_from_photo
from flowerseg.proof import limits
from flowerseg_export.config import ExportConfig
from flowerseg_export.export import export_model

PHOTO_HW = (80, 112)  # not square, so that height taken for width shows
PREPROCESS = Preprocess((64, 64))

MadeOnce = Callable[[str, Callable[[Path], object]], Path]
Exported = Callable[[Precision], Artifact]

# Frames this small gain nothing from a second thread, and threads that wait for one another on a
# busy machine made a proof of six photos take 20 seconds instead of one.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, here and nowhere else.

    `FLOWERSEG_REQUIRE=gpu,tensorrt` names the markers whose tests must run: there a skip is an
    error, so that a machine that lost its GPU does not pass by running nothing.
    """
    required = {name.strip() for name in os.environ.get("FLOWERSEG_REQUIRE", "").split(",")}
    for name, missing in _MISSING.items():
        if item.get_closest_marker(name) is None or not (reason := missing()):
            continue
        if name in required:
            pytest.fail(f"FLOWERSEG_REQUIRE names {name}, but {reason}", pytrace=False)
        pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: small ones fill what is left of each worker's time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def _missing_gpu() -> str:
    return "" if torch.cuda.is_available() else "torch sees no CUDA GPU here"


def _missing_tensorrt() -> str:
    found = importlib.util.find_spec("tensorrt") is not None
    return _missing_gpu() if found else "the tensorrt package is not installed"


def _missing_ort_cuda() -> str:
    found = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return _missing_gpu() if found else "onnxruntime is a build without CUDA"


_MISSING = {"gpu": _missing_gpu, "tensorrt": _missing_tensorrt, "ort_cuda": _missing_ort_cuda}


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 painted photos in the layout of Oxford 17 Flowers: 12 to train, 6 to validate."""
    root = tmp_path_factory.mktemp("painted") / "flowers"
    write_painted_dataset(root, 24, PHOTO_HW, seed=0)
    return root


@pytest.fixture(scope="session")
def val_photos(painted: Path) -> PhotoSet:
    return open_photos(painted, "val")


@pytest.fixture(scope="session")
def frames(painted: Path) -> Images:
    """The 24 photos as the small network sees them, (24, 64, 64, 3)."""
    return _frames_and_shares(painted)[0]


@pytest.fixture(scope="session")
def small_network(painted: Path) -> FlowerNet:
    """A MobileNetV3 whose masks of painted flowers are neither full nor empty, in a second.

    The backbone is random from a fixed seed, its BatchNorms hold the statistics of the painted
    photos, and the head is a ridge regression of the flower's share of each place. It takes some
    three quarters of every photo for flower: enough to tell two networks apart.
    """
    images, shares = _frames_and_shares(painted)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = FlowerNet(Architecture.MOBILENET_V3_LARGE)
        _silence_residuals(network)
        _calibrate_batchnorm(network, torch.from_numpy(images))
        _fit_head(network, torch.from_numpy(images), torch.from_numpy(shares))
    return network.eval()


@pytest.fixture(scope="session", autouse=True)
def few_photos_are_enough() -> None:
    """For the time that it takes; a test that needs the rule sets it again."""
    limits.LEAST_PHOTOS = 1


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Lets the first worker that asks for a file make it, and the others find it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def find(name: str, make: Callable[[Path], object]) -> Path:
        path, mark = shared / name, name.replace("/", "-")
        done = shared / f"{mark}.done"
        with FileLock(shared / f"{mark}.lock"):
            if not done.exists():
                path.parent.mkdir(exist_ok=True)
                make(path)
                done.touch()
        return path

    return find


@pytest.fixture(scope="session")
def checkpoint(small_network: FlowerNet, made_once: MadeOnce) -> Path:
    """`small_network` in a file, with its manifest."""
    manifest = Manifest(
        kind=Kind.CHECKPOINT,
        architecture=str(small_network.architecture),
        precision=Precision.FP32,
        preprocess=PREPROCESS,
        rebuild="flowerseg-train --data flowers --out small",
    )
    return made_once(
        "checkpoint/small.pt", lambda path: save_checkpoint(path, small_network, manifest)
    )


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Artifact:
    return open_artifact(checkpoint)


@pytest.fixture(scope="session")
def small_onnx_in(checkpoint: Path, painted: Path, made_once: MadeOnce) -> Exported:
    """The small network as ONNX in a precision, exported and proved on the painted photos."""

    def find(precision: Precision) -> Artifact:
        def make(out: Path) -> None:
            config = ExportConfig(checkpoint, out, precision=precision, data=painted, device="cpu")
            export_model(config)

        return open_artifact(made_once(f"{precision}/small.onnx", make))

    return find


@pytest.fixture(scope="session")
def fp32_onnx(small_onnx_in: Exported) -> Artifact:
    return small_onnx_in(Precision.FP32)


@pytest.fixture(scope="session")
def fp16_onnx(small_onnx_in: Exported) -> Artifact:
    return small_onnx_in(Precision.FP16)


@pytest.fixture(scope="session")
def int8_onnx(small_onnx_in: Exported) -> Artifact:
    """For processors."""
    return small_onnx_in(Precision.INT8)


@pytest.fixture(scope="session")
def rtx_engine(
    checkpoint: Path, fp16_onnx: Artifact, painted: Path, made_once: MadeOnce
) -> Artifact:
    """The TensorRT-RTX engine that is built from `fp16_onnx`, and lies beside it."""

    def make(out: Path) -> None:
        config = ExportConfig(
            fp16_onnx.path,
            out,
            Kind.TENSORRT_RTX,
            profiles=(Batch(1, 4, 8),),
            reference=checkpoint,
            data=painted,
            device="cpu",
        )
        export_model(config)

    return open_artifact(made_once("fp16/small.engine", make))


@pytest.fixture(scope="session")
def pt2_package(checkpoint: Path, made_once: MadeOnce) -> Artifact:
    """The same compiled by AOTInductor. Slow: it runs a C++ compiler."""

    def make(out: Path) -> None:
        export_model(ExportConfig(checkpoint, out, Kind.PT2, device="cpu"))

    return open_artifact(made_once("pt2/small.pt2", make))


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a model file with its manifest into the test's own folder, to be spoilt there."""

    def copy(model: Path) -> Path:
        folder = tmp_path / "copied"
        folder.mkdir(exist_ok=True)
        shutil.copy(manifest_path(model), folder)
        return Path(shutil.copy(model, folder))

    return copy


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which torch sees no GPU, whatever this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def _frames_and_shares(root: Path) -> tuple[Images, np.ndarray]:
    """Frames (24, 64, 64, 3), and where flower is, (24, 64, 64) float."""
    pairs = [read_pair(item) for item in open_photos(root, "trn1+val1+tst1").photos]
    images = np.stack([frame_from_photo(rgb, PREPROCESS) for rgb, _ in pairs])
    truth = np.stack([frame_from_labels(labels, PREPROCESS) for _, labels in pairs])
    return images, (truth == FLOWER).astype(np.float32)


def _silence_residuals(network: FlowerNet) -> None:
    # Random layers amplify rounding from one to the next, which trained ones do not. Blocks that
    # only pass on what they get halve the depth: FP16 then agrees at 0.9998, else at 0.996.
    for block in network.modules():
        if isinstance(block, InvertedResidual) and block.use_res_connect:
            block.block[-1][1].weight.zero_()


def _calibrate_batchnorm(network: FlowerNet, images: Tensor) -> None:
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over batches
        if isinstance(module, nn.Dropout):
            module.eval()
    network(images)
    network.eval()


def _fit_head(network: FlowerNet, images: Tensor, shares: Tensor) -> None:
    features = _features_before_head(network, images)
    target = functional.adaptive_avg_pool2d(shares[:, None], features.shape[-2:]).double().flatten()
    patches = functional.unfold(features, 3, padding=1).mT.flatten(0, 1).double()
    centred = patches - patches.mean(0)
    gram = centred @ centred.T
    ridge = 10 * gram.diagonal().mean() * torch.eye(len(gram))
    weights = centred.T @ torch.linalg.solve(gram + ridge, target - target.mean())
    margins = patches @ weights
    scale = 2.5 / margins.std()  # probabilities from near 0 to near 1
    # Where few margins lie, so that rounding moves few pixels over the threshold.
    offset = torch.quantile(margins, 0.25)
    network.head.weight.zero_()[1] = scale * weights.view(network.head.weight.shape[1:])
    network.head.bias.zero_()[1] = -scale * offset


def _features_before_head(network: FlowerNet, images: Tensor) -> Tensor:
    kept: list[Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    network(images)
    hook.remove()
    return kept[0]
