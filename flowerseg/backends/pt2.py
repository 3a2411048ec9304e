"""AOTInductor packages: the network compiled by PyTorch, run without the model's Python code."""

import torch
from torch import Tensor

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact
from flowerseg.backends.base import ONE_BATCH, SessionOptions
from flowerseg.backends.device import info_of, resolve_device
from flowerseg.backends.transfer import batch_on, recorded
from flowerseg.errors import ArtifactError, BackendUnavailable


def open_package(
    artifact: Artifact, device: str, options: SessionOptions
) -> "tuple[Pt2Backend, ...]":
    """Load a package once for each stream: a loaded one runs one batch at a time."""
    return tuple(Pt2Backend(artifact, device, options) for _ in range(options.streams))


class Pt2Backend:
    """A `.pt2` package, on the device that it was compiled for.

    Args:
        artifact: the package.
        device: `auto` is the kind that it was compiled for.
        options: of these `cuda_graph` counts.

    Raises:
        BackendUnavailable: that device is not here, or another one was asked for.
        ArtifactError: PyTorch refuses the package.
    """

    def __init__(
        self, artifact: Artifact, device: str = "auto", options: SessionOptions = ONE_BATCH
    ) -> None:
        manifest = artifact.manifest
        made_for = "cuda" if manifest.built_for and manifest.built_for.compute_capability else "cpu"
        self._device = resolve_device(made_for if device == "auto" else device)
        if not self._device.startswith(made_for):
            raise BackendUnavailable(
                f"{artifact.path} was compiled for {made_for}, not for {self._device}. "
                f"Rebuild: {manifest.rebuild}"
            )
        try:
            run = torch._inductor.aoti_load_package(
                str(artifact.path),
                # Its locks wait for events, which cannot be recorded; one thread drives it anyway.
                run_single_threaded=options.cuda_graph,
                device_index=-1 if made_for == "cpu" else torch.device(self._device).index,
            )
        except RuntimeError as error:
            raise ArtifactError(f"{artifact.path}: PyTorch refuses it: {error}") from error
        self._batch = batch_on(self._device)
        self.stream = getattr(self._batch, "stream", None)
        self._run = recorded(run, self._batch, cuda_graph=options.cuda_graph)
        self.info = info_of(manifest, "aotinductor", torch.__version__, self._device)

    def upload(self, images: Images) -> None:
        """Copy the batch to the device."""
        self._images = self._batch.upload(images)

    def execute(self) -> None:
        """Run the compiled network."""
        with torch.inference_mode(), self._batch.working():
            self._foreground: Tensor = self._run(self._images)

    def synchronize(self) -> None:
        """Wait for the GPU; the CPU is always done."""
        self._batch.synchronize()

    def download(self) -> Foreground:
        """Copy the result to the host."""
        return self._batch.download(self._foreground)

    def close(self) -> None:
        """Let go of the package."""
        self.__dict__.pop("_run", None)
