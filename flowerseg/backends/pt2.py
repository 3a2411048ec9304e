"""AOTInductor packages: the network compiled by PyTorch, run without the model's Python code."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowerseg.archive import require_plain_archive
from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact, rebuild_advice
from flowerseg.backends.base import ONE_BATCH, SessionOptions
from flowerseg.backends.cudnn import CudnnSwitches, computed_with
from flowerseg.backends.device import compute_capability, cpu_features, info_of, resolve_device
from flowerseg.backends.transfer import batch_on, recorded
from flowerseg.errors import ArtifactError, BackendUnavailable
from flowerseg.files import open_regular
from flowerseg.smallfiles import reason_of


def open_package(
    artifact: Artifact, device: str, options: SessionOptions
) -> "tuple[Pt2Backend, ...]":
    """Load a package once for each stream: a loaded one runs one batch at a time."""
    return tuple(Pt2Backend(artifact, device, options) for _ in range(options.streams))


def check_package_fits(
    artifact: Artifact, version: str, capability: str, system: str, features: Sequence[str]
) -> None:
    """Refuse a package of another PyTorch, GPU, system or processor before its code is loaded.

    Args:
        artifact: a package with its manifest.
        version: PyTorch's version on this machine, as `2.11.0+cu130`.
        capability: compute capability of the GPU, as `9.0`; empty for the CPU.
        system: `platform.system()`.
        features: the processor's extensions, see `cpu_features`.

    Raises:
        ArtifactError: naming what differs and the command that rebuilds the package.
    """
    manifest = artifact.manifest
    built_by = manifest.versions.get("torch", "")
    differing = []
    if built_by and _minor(built_by) != _minor(version):
        # The compiled code calls PyTorch's C interface, which is kept for patch releases only.
        differing.append(f"PyTorch {built_by}, this machine has {version}")
    if made := manifest.built_for:
        if made.system != system:
            differing.append(f"system {made.system}, this machine has {system}")
        if made.compute_capability != capability:
            differing.append(
                f"compute capability {made.compute_capability}, this GPU has {capability}"
            )
        if missing := sorted(set(made.cpu_features) - set(features)):
            differing.append(f"a processor with {', '.join(missing)}, which this one lacks")
    if differing:
        raise ArtifactError(
            f"{artifact.path}: package compiled for {'; '.join(differing)}. "
            f"Compile it on the machine that runs it. {rebuild_advice(artifact.path)}"
        )


def _require_plain_package(path: Path) -> None:
    """Refuse names that leave the folder into which torch unpacks, links and compressed members.

    Raises:
        ArtifactError: the package holds such a member, or is damaged.
    """
    try:
        with open_regular(path, follows_link=True) as file:
            require_plain_archive(file)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a package that PyTorch has written: {reason_of(error)}. "
            f"{rebuild_advice(path)}"
        ) from error


def _minor(version: str) -> tuple[str, ...]:
    """`2.11.0+cu130` -> `2`, `11`."""
    return tuple(version.split("+")[0].split(".")[:2])


class Pt2Backend:
    """A `.pt2` package, on the device that it was compiled for.

    Args:
        artifact: the package.
        device: `auto` is the kind that it was compiled for.
        options: `cuda_graph` and `cudnn_benchmark` are used.

    Raises:
        BackendUnavailable: that device is not available, or another one was requested.
        ArtifactError: the package was compiled for something else, or PyTorch refuses it.
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
                f"{rebuild_advice(artifact.path)}"
            )
        check_package_fits(
            artifact,
            torch.__version__,
            compute_capability(self._device),
            platform.system(),
            cpu_features(),
        )
        _require_plain_package(artifact.path)
        try:
            run = torch._inductor.aoti_load_package(
                str(artifact.path),
                # Its locks wait for events, which cannot be recorded; one thread drives it anyway.
                run_single_threaded=options.cuda_graph,
                device_index=-1 if made_for == "cpu" else torch.device(self._device).index,
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise ArtifactError(
                f"{artifact.path}: PyTorch refuses it: {str(error).strip().splitlines()[0][:300]}. "
                f"{rebuild_advice(artifact.path)}"
            ) from error
        self._batch = batch_on(self._device)
        self.stream = getattr(self._batch, "stream", None)
        # Its convolutions are torch's own, which read the switches when they run.
        switches = CudnnSwitches(benchmark=options.cudnn_benchmark)
        computed = computed_with(run, self._device, switches)
        self._run = recorded(computed, self._batch, cuda_graph=options.cuda_graph)
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
