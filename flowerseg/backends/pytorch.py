"""PyTorch: eager in FP32, the reference that all others are proved against; compiled; in half."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from flowerseg.arrays import Foreground, Images, SizeHW
from flowerseg.artifact import Artifact
from flowerseg.backends.base import ONE_BATCH, BackendInfo, Layout, SessionOptions
from flowerseg.backends.cudnn import CudnnSwitches, computed_with
from flowerseg.backends.device import device_name, resolve_device
from flowerseg.backends.inductor import require_private_code_cache
from flowerseg.backends.transfer import batch_on, recorded
from flowerseg.checkpoint import network_from_artifact
from flowerseg.errors import BackendUnavailable
from flowerseg.half import half_from_network
from flowerseg.model import Deployable, FlowerNet, specialised

Runtime: TypeAlias = Literal["pytorch", "pytorch-fp16", "torch-compile", "torch-compile-fp16"]


def open_checkpoint(
    artifact: Artifact, device: str, options: SessionOptions = ONE_BATCH
) -> "PyTorchBackend":
    """Open a checkpoint in FP32, TF32 off.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        BackendUnavailable: the device is not available.
    """
    network = network_from_artifact(artifact)
    if resolve_device(device) != "cpu":
        _lay_out(network, options.layout or "channels-first")
    size_hw = artifact.manifest.preprocess.size_hw
    return PyTorchBackend(network, size_hw, device, options=options)


def open_half(
    artifact: Artifact, device: str, options: SessionOptions
) -> "tuple[PyTorchBackend, ...]":
    """Open a checkpoint in FP16, channels last; on a GPU only. All streams share the weights.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        BackendUnavailable: the device is not available, or is the CPU.
    """
    half = _half_on_gpu(artifact, device, "pytorch-fp16")
    size_hw = artifact.manifest.preprocess.size_hw
    return tuple(
        PyTorchBackend(half, size_hw, device, "pytorch-fp16", options)
        for _ in range(options.streams)
    )


def open_compiled(
    artifact: Artifact, device: str, runtime: Runtime, options: SessionOptions = ONE_BATCH
) -> "PyTorchBackend":
    """Open a checkpoint to be compiled by `torch.compile` at the first batch.

    It is compiled twice: for one photo, and for more of any number. `torch-compile` computes in
    FP32 with TF32 off; `torch-compile-fp16` in FP16, channels last, on a GPU only.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        BackendUnavailable: the device is not available, or is the CPU for FP16.
    """
    size_hw = artifact.manifest.preprocess.size_hw
    if runtime == "torch-compile-fp16":
        network = _half_on_gpu(artifact, device, runtime)
    else:
        network = specialised(network_from_artifact(artifact), size_hw)
    return PyTorchBackend(network, size_hw, device, runtime, options)


def _half_on_gpu(artifact: Artifact, device: str, runtime: Runtime) -> FlowerNet:
    """The network in FP16, or a refusal where FP16 would be computed on the CPU."""
    if resolve_device(device) == "cpu":
        raise BackendUnavailable(
            f"{artifact.path}: {runtime} runs on a GPU. On the CPU PyTorch takes over ten times "
            "as long in half as in FP32: use --runtime pytorch there."
        )
    size_hw = artifact.manifest.preprocess.size_hw
    half = half_from_network(specialised(network_from_artifact(artifact), size_hw))
    # Matrix units multiply half, and take channels last without a transpose.
    half.to(memory_format=torch.channels_last)
    return half


class PyTorchBackend:
    """A network in PyTorch, in eval mode.

    Args:
        network: moved to the device, and otherwise left as it is: it may be in training. Its
            weights' type is the precision.
        size_hw: size of the frames.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        runtime: its name; the two `torch-compile` compile.
        options: `cuda_graph` and `cudnn_benchmark` are used, both on a GPU only.
    """

    def __init__(
        self,
        network: FlowerNet,
        size_hw: SizeHW,
        device: str = "auto",
        runtime: Runtime = "pytorch",
        options: SessionOptions = ONE_BATCH,
    ) -> None:
        self._device = resolve_device(device)
        self._module: nn.Module = Deployable(network).eval().to(self._device)
        self._is_compiled = runtime.startswith("torch-compile")
        if self._is_compiled:
            require_private_code_cache()
            # In one graph or not at all: what it cannot compile it would run eagerly, in silence.
            self._module.compile(fullgraph=True)
        self._batch = batch_on(self._device)
        self.stream = getattr(self._batch, "stream", None)
        switches = CudnnSwitches(benchmark=options.cudnn_benchmark)
        computed = computed_with(self._module, self._device, switches)
        self._run = recorded(computed, self._batch, cuda_graph=options.cuda_graph)
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
        with torch.inference_mode(), self._batch.working():
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


def _lay_out(network: FlowerNet, layout: Layout) -> None:
    """Bring weights and activations into one layout, or cuDNN would transpose at every layer.

    Activations follow the frames, which are channels last, unless they are converted once.
    """
    is_last = layout == "channels-last"
    memory_format = torch.channels_last if is_last else torch.contiguous_format
    network.to(memory_format=memory_format)
    network.backbone.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].contiguous(memory_format=memory_format),)
    )
