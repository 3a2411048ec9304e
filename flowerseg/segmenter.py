"""Photos in, masks out, on any backend: what predict, verify, bench and users go through."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, TypeAlias

import numpy as np

from flowerseg.arrays import Foreground, Mask, Rgb, SizeHW, size_of
from flowerseg.artifact import (
    UNTUNED_BATCH,
    Artifact,
    Batch,
    not_proved,
    open_artifact,
    require_proof,
)
from flowerseg.backends import (
    ONE_BATCH,
    RUNTIMES,
    Backend,
    BackendInfo,
    SessionOptions,
    fastest_proved,
    kind_of_device,
    open_backends,
    run,
)
from flowerseg.backends.pool import BackendPool
from flowerseg.masks import foreground_at, mask_from_foreground
from flowerseg.photoarray import as_rgb, as_rgb_of_several, require_several
from flowerseg.preprocess import Preprocess, frame_from_photo
from flowerseg.proofrecord import LARGEST_BATCH
from flowerseg.ranges import require_open_share
from flowerseg.selftest import require_same_map

if TYPE_CHECKING:
    from PIL.Image import Image

    Photo: TypeAlias = Rgb | Image

Infer: TypeAlias = Callable[[Sequence[Rgb]], Foreground]
"""Foreground (N, H, W) of one batch of frames (H, W, 3)."""


class Segmenter:
    """A backend with the preprocess and threshold of its model, and its file where it has one.

    Any number of threads may use it at once, in every runtime. Each of its streams computes one
    batch at a time, so a call waits until a stream is free; `SessionOptions.streams` says how many
    there are. A process that was forked from the one that opened it cannot use it, and it cannot be
    pickled: open the model in each process.

    Args:
        backend: the model in a runtime.
        preprocess: of the model.
        threshold: probability from which a pixel is flower, between 0 and 1.
        artifact: its file.
        others: the same model on further streams, to compute several batches at a time.
    """

    def __init__(
        self,
        backend: Backend,
        preprocess: Preprocess,
        threshold: float = 0.5,
        artifact: Artifact | None = None,
        others: Sequence[Backend] = (),
    ) -> None:
        if backend.info.size_hw != preprocess.size_hw:
            raise ValueError(
                f"the backend takes frames of {backend.info.size_hw}, "
                f"the preprocess makes {preprocess.size_hw}"
            )
        require_open_share(threshold=threshold)
        self.backend = backend
        self._pool = BackendPool((backend, *others))
        self.preprocess = preprocess
        self.threshold = threshold
        self.artifact = artifact
        self.why_not_proved = "it was not opened from a file"
        """Why its masks are not proved, as text; empty where they are, or are the reference's."""
        self._largest_proved: int | None = None

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        device: str = "auto",
        runtime: str = "auto",
        options: SessionOptions = ONE_BATCH,
        threshold: float | None = None,
        allow_unproven: bool = False,
        is_tested: bool = True,
        trust: bool = False,
    ) -> Self:
        """Open a model file (.pt, .onnx, .engine, .pt2) with its manifest beside it.

        Args:
            model: path of the file.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            runtime: one of `backends.RUNTIMES` for the file's kind; `auto` is the fastest one here
                in which the file was proved, and `info` says which.
            options: threads, streams, CUDA graphs; see `SessionOptions`.
            threshold: probability from which a pixel is flower; None takes the model's.
            allow_unproven: open a file whose proof failed, or was never run in this runtime.
            is_tested: run the self-test in the manifest; the proof does not, for it finds out more.
            trust: open a compiled file although another user owns it or can write to it.

        Raises:
            ArtifactError: missing, changed, unproven or foreign file; or its self-test differs.
            BackendUnavailable: runtime or device missing. There is no silent fallback.
            TypeError, ValueError: an argument of a wrong type, or with a value that none has.
        """
        _check_arguments(device, runtime, options)
        if threshold is not None:
            require_open_share(threshold=threshold)
        artifact = open_artifact(model, trust=trust)
        manifest = artifact.manifest
        opener = fastest_proved(manifest, device) if runtime == "auto" else runtime
        if opener in RUNTIMES[manifest.kind]:  # another one is refused for what it is
            kind = kind_of_device(manifest, opener, device)
            require_proof(artifact, allow_unproven=allow_unproven, runtime=opener, device=kind)
        chosen = manifest.threshold if threshold is None else threshold
        first, *others = open_backends(artifact, device, opener, options)
        opened = cls(first, manifest.preprocess, chosen, artifact, others)
        try:
            opened._hold_to_proof(opener, options, allow_unproven=allow_unproven)
            if is_tested:
                for backend in opened.backends:
                    require_same_map(artifact, backend)
        except BaseException:
            opened.close()
            raise
        return opened

    def _hold_to_proof(
        self, runtime: str, options: SessionOptions, *, allow_unproven: bool
    ) -> None:
        """Compare how the file was opened with how it was proved, and take no larger batch."""
        assert self.artifact is not None
        manifest, info = self.artifact.manifest, self.info
        if manifest.is_reference_in(runtime):
            self.why_not_proved = ""
            return
        proof = manifest.proof_in(runtime, info.device)
        self.why_not_proved = manifest.why_not_proved(runtime, info.device) or (
            proof.why_not_as(
                info.version, info.device_name, options.streams, graph=options.cuda_graph
            )
            if proof
            else ""
        )
        if allow_unproven:
            return
        if self.why_not_proved:
            kind = info.device.partition(":")[0]
            raise not_proved(self.artifact, self.why_not_proved, runtime, kind)
        self._largest_proved = manifest.largest_proved(runtime, info.device)

    @property
    def info(self) -> BackendInfo:
        """What runs where; its batch sizes are those that were proved, if the file was."""
        info, largest = self.backend.info, self._largest_proved
        takes = info.batch or Batch(1, UNTUNED_BATCH, LARGEST_BATCH)
        if largest is None or takes.max <= largest:
            return info
        return replace(info, batch=Batch(takes.min, min(takes.opt, largest), largest))

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backend of each stream, for callers who drive it in a single thread themselves."""
        self.require_open()
        return self._pool.backends

    @property
    def streams(self) -> "tuple[Infer, ...]":
        """A function for each stream that infers a batch, for one thread at a time."""
        self.require_open()
        return tuple(partial(self._infer_on, backend) for backend in self.backends)

    def segment(self, photo: "Photo") -> Mask:
        """Mask (h, w) of one photo: True is flower.

        Args:
            photo: uint8 (h, w, 3) in RGB, or a PIL image; see `flowerseg.photoarray.as_rgb`.

        Raises:
            TypeError: it is something else.
            ValueError: an array of another type or shape; or this Segmenter is closed.
            BackendUnavailable: this process was forked from the one that opened the model.
        """
        self.require_open()
        return self._masks_of([as_rgb(photo)])[0]

    def segment_batch(self, photos: "Iterable[Photo]") -> list[Mask]:
        """Masks of several photos of any sizes, in one batch; an empty list of none.

        Raises as `segment` does, and ValueError for more photos than the model takes in a batch.
        """
        self.require_open()
        require_several(photos)
        pixels = [as_rgb_of_several(photo, index) for index, photo in enumerate(photos)]
        return self._masks_of(pixels) if pixels else []

    def _masks_of(self, pixels: Sequence[Rgb]) -> list[Mask]:
        foregrounds = self.infer([frame_from_photo(rgb, self.preprocess) for rgb in pixels])
        return [
            self.mask(foreground, size_of(rgb))
            for foreground, rgb in zip(foregrounds, pixels, strict=True)
        ]

    def probability(self, photo: "Photo") -> Foreground:
        """Flower probability (h, w) of one photo as `min(255, floor(256 p))`.

        Raises as `segment` does.
        """
        self.require_open()
        rgb = as_rgb(photo)
        (foreground,) = self.infer([frame_from_photo(rgb, self.preprocess)])
        return foreground_at(foreground, size_of(rgb))

    def infer(self, frames: Sequence[Rgb]) -> Foreground:
        """Foreground (N, H, W) of one batch of frames (H, W, 3).

        Raises:
            TypeError, ValueError: the frames form no batch that the model takes; or this Segmenter
                is closed.
            BackendUnavailable: this process was forked from the one that opened the model.
        """
        return self._infer_on(None, frames)

    def mask(self, foreground: Foreground, size_hw: SizeHW) -> Mask:
        """Mask (h, w) at the photo's size from its probability map (H, W)."""
        return mask_from_foreground(foreground, size_hw, self.threshold)

    def require_open(self) -> None:
        """Check that this Segmenter can still be used, and in this process.

        Raises:
            ValueError: it is closed.
            BackendUnavailable: this process was forked from the one that opened it.
        """
        self._pool.require_open()

    def close(self) -> None:
        """Free what the runtime holds, once calls of other threads have finished.

        Calls that come later raise ValueError. Closing twice is fine.
        """
        self._pool.close()

    def _infer_on(self, backend: Backend | None, frames: Sequence[Rgb]) -> Foreground:
        """Infer a batch on one backend, or on the first that is free."""
        self.require_open()
        self._check_frames(frames)
        with self._pool.lend(backend) as lent:
            return run(lent, np.stack(frames))

    def _check_frames(self, frames: Sequence[Rgb]) -> None:
        """Refuse frames that do not form a batch, naming the first that is wrong."""
        wanted = (*self.info.size_hw, 3)
        if len(frames) == 0:
            raise ValueError("a batch of 0 frames; the model takes 1 or more")
        if self._largest_proved and len(frames) > self._largest_proved:
            raise ValueError(
                f"a batch of {len(frames)}; this model was proved with up to "
                f"{self._largest_proved}. Give fewer at a time, prove more with flowerseg-verify "
                f"--largest-batch {len(frames)}, or open it with allow_unproven=True"
            )
        for index, frame in enumerate(frames):
            if as_rgb_of_several(frame, index, "frame").shape != wanted:
                raise ValueError(f"frame {index}: it must be {wanted}, not {frame.shape}")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Segmenter cannot be pickled or copied; open the model file again where it is needed"
        )

    def __enter__(self) -> Self:
        self.require_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_arguments(device: object, runtime: object, options: object) -> None:
    """Refuse arguments of `Segmenter.open` with which no model can be opened."""
    for name, value in (("device", device), ("runtime", runtime)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be text such as 'auto', not {value!r}")
    if not isinstance(options, SessionOptions):
        raise TypeError(f"options must be SessionOptions, not {options!r}")
    known = [name for names in RUNTIMES.values() for name in names]
    if runtime not in ("auto", *known):
        raise ValueError(f"runtime must be auto or one of {', '.join(known)}, not {runtime!r}")


def require_segmenter(segmenter: object) -> None:
    """Check an argument of a function that segments.

    Raises:
        TypeError: it is no Segmenter.
        ValueError: it is closed.
        BackendUnavailable: this process was forked from the one that opened it.
    """
    if not isinstance(segmenter, Segmenter):
        raise TypeError(
            f"segmenter must be an open Segmenter, not {type(segmenter).__name__}: "
            "Segmenter.open(model) gives one"
        )
    segmenter.require_open()
