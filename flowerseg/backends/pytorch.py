"""PyTorch eager: the reference that every other backend is proved against."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from flowerseg.arrays import Foreground, Images, SizeHW
from flowerseg.artifact import Artifact
from flowerseg.backends.base import BackendInfo
from flowerseg.backends.device import device_name, resolve_device
from flowerseg.backends.transfer import DeviceBatch
from flowerseg.checkpoint import network_from_artifact
from flowerseg.model import Deployable, FlowerNet


def open_checkpoint(artifact: Artifact, device: str) -> "PyTorchBackend":
    """Open a checkpoint in FP32, TF32 off.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        BackendUnavailable: the device is not here.
    """
    network = network_from_artifact(artifact)
    return PyTorchBackend(network, artifact.manifest.preprocess.size_hw, device)


class PyTorchBackend:
    """A network in PyTorch, eager and in eval mode.

    Args:
        network: moved to the device; its weights' type is the precision.
        size_hw: size of the frames.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    def __init__(self, network: FlowerNet, size_hw: SizeHW, device: str = "auto") -> None:
        self._device = resolve_device(device)
        self._module: nn.Module = Deployable(network).eval().to(self._device)
        self._batch = DeviceBatch(self._device)
        half = network.head.weight.dtype is torch.float16
        self.info = BackendInfo(
            runtime="pytorch",
            version=torch.__version__,
            device=self._device,
            device_name=device_name(self._device),
            precision="fp16" if half else "fp32",
            size_hw=size_hw,
            batch=None,
        )

    def upload(self, images: Images) -> None:
        """Copy the batch to the device."""
        self._images = self._batch.upload(images)

    def execute(self) -> None:
        """Run the network."""
        with torch.inference_mode(), _without_tf32(self._device):
            self._foreground: Tensor = self._module(self._images)

    def synchronize(self) -> None:
        """Wait for the GPU; the CPU is always done."""
        self._batch.synchronize()

    def download(self) -> Foreground:
        """Copy the result to the host."""
        return self._batch.download(self._foreground)

    def close(self) -> None:
        """Let go of weights and results."""
        self._module = nn.Identity()
        self.__dict__.pop("_images", None)
        self.__dict__.pop("_foreground", None)


def _without_tf32(device: str) -> AbstractContextManager[Any]:
    # cuDNN's convolutions use TF32 unless told otherwise: a reference with 10 bits of mantissa.
    if not device.startswith("cuda"):
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
