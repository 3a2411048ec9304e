"""AOTInductor packages: the network compiled by PyTorch, run without the model's Python code."""

import torch
from torch import Tensor

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact
from flowerseg.backends.device import info_of, resolve_device
from flowerseg.backends.transfer import DeviceBatch
from flowerseg.errors import ArtifactError, BackendUnavailable


class Pt2Backend:
    """A `.pt2` package, on the device that it was compiled for.

    Raises:
        BackendUnavailable: that device is not here, or another one was asked for.
        ArtifactError: PyTorch refuses the package.
    """

    def __init__(self, artifact: Artifact, device: str = "auto") -> None:
        manifest = artifact.manifest
        made_for = "cuda" if manifest.built_for and manifest.built_for.compute_capability else "cpu"
        self._device = resolve_device(made_for if device == "auto" else device)
        if not self._device.startswith(made_for):
            raise BackendUnavailable(
                f"{artifact.path} was compiled for {made_for}, not for {self._device}. "
                f"Rebuild: {manifest.rebuild}"
            )
        try:
            self._run = torch._inductor.aoti_load_package(str(artifact.path))
        except RuntimeError as error:
            raise ArtifactError(f"{artifact.path}: PyTorch refuses it: {error}") from error
        self._batch = DeviceBatch(self._device)
        self.info = info_of(manifest, "aotinductor", torch.__version__, self._device)

    def upload(self, images: Images) -> None:
        """Copy the batch to the device."""
        self._images = self._batch.upload(images)

    def execute(self) -> None:
        """Run the compiled network."""
        with torch.inference_mode():
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
