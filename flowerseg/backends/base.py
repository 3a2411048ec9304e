"""The seam: what every runtime has to do, and nothing more.

One batch goes `upload` -> `execute` -> `synchronize` -> `download`. The benchmark times these verbs
with one clock for all backends; `run` is the four in order, for everyone else.
"""

import re
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from flowerseg.arrays import Foreground, Images, SizeHW
from flowerseg.artifact import Batch
from flowerseg.errors import ArtifactError, BackendUnavailable, FlowersegError
from flowerseg.ranges import require_count

Layout: TypeAlias = Literal["channels-first", "channels-last"]
"""The order of activations and weights in memory: NCHW or NHWC."""


@dataclass(frozen=True)
class BackendInfo:
    """What really runs, read back from the runtime and not from the request."""

    runtime: str  # "onnxruntime", "pytorch", …
    version: str
    device: str  # "cpu" or "cuda:0"
    device_name: str
    precision: str
    size_hw: SizeHW
    batch: Batch | None  # what the file takes; None: any

    def __str__(self) -> str:
        return f"{self.runtime} {self.version} on {self.device_name} ({self.device})"


@dataclass(frozen=True)
class SessionOptions:
    """How a model is opened. No option changes the function that is computed."""

    threads: int | None = None  # of a batch, on the CPU; None: the runtime's own choice
    streams: int = 1  # batches at a time, each in a backend of its own
    shares_cores: bool = False  # other threads compute meanwhile: do not keep a core busy waiting
    cuda_graph: bool = False  # record what a batch size takes on a GPU once, then replay it
    cudnn_benchmark: bool = False  # let cuDNN time its kernels at the first batch of each size
    layout: Layout | None = None  # PyTorch in FP32 on a GPU; None: channels-first

    def __post_init__(self) -> None:
        require_count(threads=self.threads, streams=self.streams)


def is_device_name(name: str) -> bool:
    """Whether this is `auto`, `cpu`, `cuda` or `cuda:N`."""
    return re.fullmatch("auto|cpu|cuda(:[0-9]{1,4})?", name) is not None


ONE_BATCH = SessionOptions()
"""One batch at a time, with all that the machine has."""


class Backend(Protocol):
    """A model opened in a runtime. One thread drives it; `contextlib.closing` closes it."""

    @property
    def info(self) -> BackendInfo:
        """What runs where."""

    def upload(self, images: Images) -> None:
        """Bring a batch (N, H, W, 3) to where the runtime reads it."""

    def execute(self) -> None:
        """Run the network on the uploaded batch; may return before it has finished."""

    def synchronize(self) -> None:
        """Return when everything that was started has finished."""

    def download(self) -> Foreground:
        """The finished result (N, H, W) in host memory, not overwritten by later batches."""

    def close(self) -> None:
        """Give back what the runtime holds."""


def run(backend: Backend, images: Images) -> Foreground:
    """Foreground (N, H, W) of one batch (N, H, W, 3).

    Raises:
        ValueError: the batch has another type, shape or size than the model takes.
        ArtifactError: the model computed an output of another type or shape than the contract has.
        BackendUnavailable: the runtime failed.
    """
    check_images(images, backend.info)
    try:
        backend.upload(images)
        backend.execute()
        backend.synchronize()
        foreground = backend.download()
    except (FlowersegError, ValueError):
        raise
    except Exception as error:  # each runtime has types of its own
        raise BackendUnavailable(
            f"{backend.info} failed to compute a batch of {len(images)}: {error}. If memory ran "
            "out, use a smaller batch; else run flowerseg-verify on the model."
        ) from error
    if foreground.dtype != np.uint8 or foreground.shape != images.shape[:3]:
        raise ArtifactError(
            f"{backend.info} computed {foreground.dtype} {foreground.shape} where a model of "
            f"flowerseg gives uint8 {images.shape[:3]}. Export the model again."
        )
    return foreground


def check_images(images: Images, info: BackendInfo) -> None:
    """Refuse a batch that the model was not made for.

    Raises:
        ValueError: naming what came and what was expected.
    """
    height, width = info.size_hw
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3):
        raise ValueError(
            f"images must be uint8 (N, {height}, {width}, 3), not {images.dtype} {images.shape}"
        )
    count, takes = images.shape[0], info.batch
    if count < 1 or (takes and not takes.min <= count <= takes.max):
        sizes = f"{takes.min} to {takes.max}" if takes else "1 and more"
        raise ValueError(f"a batch of {count}; the model takes {sizes}")
