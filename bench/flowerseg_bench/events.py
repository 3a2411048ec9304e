"""The GPU's own clock, beside the wall clock: where they disagree, a number is doubted."""

from collections.abc import Callable
from statistics import median
from typing import Any, Protocol

from flowerseg.backends import Backend


class Events(Protocol):
    """A clock of a device."""

    def around(self, execute: Callable[[], None]) -> None:
        """Mark the device's time before and after what `execute` starts."""

    def read(self) -> None:
        """Take the time between the marks, once the device has passed them."""

    @property
    def median_ms(self) -> float | None:
        """Of all that was read; None: nothing was."""


class CudaEvents:
    """A pair of CUDA events on the stream that a backend works on."""

    def __init__(self, stream: Any) -> None:
        import torch

        self._stream = stream
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        self._runs_ms: list[float] = []

    def around(self, execute: Callable[[], None]) -> None:
        """Record an event, start the work, record another."""
        self._start.record(self._stream)
        execute()
        self._end.record(self._stream)

    def read(self) -> None:
        """Wait for the second event and take the time between both."""
        self._end.synchronize()
        self._runs_ms.append(float(self._start.elapsed_time(self._end)))

    @property
    def median_ms(self) -> float | None:
        """Of all runs, warm-up included: it is the median."""
        return round(median(self._runs_ms), 4) if self._runs_ms else None


def events_of(backend: Backend) -> CudaEvents | None:
    """Events for a backend on a GPU; None on the CPU."""
    import torch

    device = backend.info.device
    if not device.startswith("cuda"):
        return None
    # Runtimes with a stream of their own say so; torch's use the current one.
    return CudaEvents(getattr(backend, "stream", None) or torch.cuda.current_stream(device))
