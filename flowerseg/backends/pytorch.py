"""PyTorch: eager in FP32, the reference that all others are proved against; compiled; in half."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from flowerseg.arrays import Foreground, Images, SizeHW
from flowerseg.artifact import Artifact
from flowerseg.backends.base import BackendInfo, SessionOptions
from flowerseg.backends.device import device_name, resolve_device
from flowerseg.backends.transfer import batch_on, recorded
from flowerseg.checkpoint import network_from_artifact
from flowerseg.errors import BackendUnavailable
from flowerseg.half import half_from_network
from flowerseg.model import Deployable, FlowerNet, specialised

Runtime: TypeAlias = Literal["pytorch", "pytorch-fp16", "torch-compile"]


def open_checkpoint(
    artifact: Artifact, device: str, *, cuda_graph: bool = False
) -> "PyTorchBackend":
    """Open a checkpoint in FP32, TF32 off.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        BackendUnavailable: the device is not here.
    """
    network = network_from_artifact(artifact)
    size_hw = artifact.manifest.preprocess.size_hw
    return PyTorchBackend(network, size_hw, device, cuda_graph=cuda_graph)


def open_half(
    artifact: Artifact, device: str, options: SessionOptions
) -> "tuple[PyTorchBackend, ...]":
    """Open a checkpoint in FP16, channels last; on a GPU only. All streams have the same weights.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        BackendUnavailable: the device is not here, or is the CPU.
    """
    if resolve_device(device) == "cpu":
        raise BackendUnavailable(
            f"{artifact.path}: pytorch-fp16 runs on a GPU. On the CPU PyTorch takes over ten times "
            "as long in half as in FP32: use --runtime pytorch there."
        )
    size_hw = artifact.manifest.preprocess.size_hw
    half = half_from_network(specialised(network_from_artifact(artifact), size_hw))
    # Half is multiplied in matrix units, which take channels last without a transpose.
    half.to(memory_format=torch.channels_last)
    return tuple(
        PyTorchBackend(half, size_hw, device, "pytorch-fp16", cuda_graph=options.cuda_graph)
        for _ in range(options.streams)
    )


def open_compiled(artifact: Artifact, device: str) -> "PyTorchBackend":
    """Open a checkpoint in FP32, to be compiled by `torch.compile` at the first batch.

    It is compiled twice: for one photo, and for more of any number.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        BackendUnavailable: the device is not here.
    """
    size_hw = artifact.manifest.preprocess.size_hw
    network = specialised(network_from_artifact(artifact), size_hw)
    return PyTorchBackend(network, size_hw, device, "torch-compile")


class PyTorchBackend:
    """A network in PyTorch, in eval mode.

    Args:
        network: moved to the device; its weights' type is the precision.
        size_hw: size of the frames.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        runtime: its name; `torch-compile` compiles.
        cuda_graph: record it at the first batch of each size.
    """

    def __init__(
        self,
        network: FlowerNet,
        size_hw: SizeHW,
        device: str = "auto",
        runtime: Runtime = "pytorch",
        *,
        cuda_graph: bool = False,
    ) -> None:
        self._device = resolve_device(device)
        self._module: nn.Module = Deployable(network).eval().to(self._device)
        self._is_compiled = runtime == "torch-compile"
        if self._is_compiled:
            # In one graph or not at all: what it cannot compile it would run eagerly, in silence.
            self._module.compile(fullgraph=True)
        self._batch = batch_on(self._device)
        self.stream = getattr(self._batch, "stream", None)
        self._run = recorded(self._module, self._batch, cuda_graph=cuda_graph)
        half = network.head.weight.dtype is torch.float16
        self.info = BackendInfo(
            runtime=runtime,
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
        if self._is_compiled and len(images) > 1:
            torch._dynamo.mark_dynamic(self._images, 0)  # or every batch size is compiled anew

    def execute(self) -> None:
        """Run the network."""
        with torch.inference_mode(), self._batch.working(), _without_tf32(self._device):
            self._foreground: Tensor = self._run(self._images)

    def synchronize(self) -> None:
        """Wait for the GPU; the CPU is always done."""
        self._batch.synchronize()

    def download(self) -> Foreground:
        """Copy the result to the host."""
        return self._batch.download(self._foreground)

    def close(self) -> None:
        """Let go of weights and results."""
        self._run = self._module = nn.Identity()
        self.__dict__.pop("_images", None)
        self.__dict__.pop("_foreground", None)


def _without_tf32(device: str) -> AbstractContextManager[Any]:
    # cuDNN's convolutions use TF32 unless told otherwise: a reference with 10 bits of mantissa.
    if not device.startswith("cuda"):
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
