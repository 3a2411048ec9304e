"""cuDNN's process-wide switches, set while a thread gives work to a GPU and set back afterwards."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

import torch
from torch import Tensor

from flowerseg.backends.transfer import Network


@dataclass(frozen=True)
class CudnnSwitches:
    """How torch lets cuDNN compute convolutions.

    TF32 is off in all of them: with it an FP32 convolution has ten bits of mantissa, and torch
    allows it by default.
    """

    benchmark: bool = False  # time all kernels at the first call of each shape, and keep the best


class _Holders:
    """Counts the threads that need the switches as they are set.

    The switches belong to the process, while each stream is driven by a thread of its own: a
    thread that set them back would change them under the others. So the last one sets them back,
    and a thread that needs other switches waits until then.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._count = 0
        self._current = CudnnSwitches()
        self._before = (False, False)

    def take(self, wanted: CudnnSwitches) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0 or self._current == wanted)
            if self._count == 0:
                cudnn = torch.backends.cudnn
                self._before, self._current = (cudnn.allow_tf32, cudnn.benchmark), wanted
                _set(allow_tf32=False, benchmark=wanted.benchmark)
            self._count += 1

    def give_back(self) -> None:
        with self._changed:
            self._count -= 1
            if self._count == 0:
                allow_tf32, benchmark = self._before
                _set(allow_tf32=allow_tf32, benchmark=benchmark)
                self._changed.notify_all()


_holders = _Holders()


@contextmanager
def cudnn_switches(wanted: CudnnSwitches) -> Iterator[None]:
    """Hold cuDNN's switches while convolutions are started, captured or compiled.

    A thread that already holds them may take the same ones again.
    """
    _holders.take(wanted)
    try:
        yield
    finally:
        _holders.give_back()


def computed_with(network: Network, device: str, switches: CudnnSwitches) -> Network:
    """The network with cuDNN's switches held whenever it is called; as it is on the CPU."""
    if not device.startswith("cuda"):
        return network

    def run(images: Tensor) -> Tensor:
        with cudnn_switches(switches):
            return network(images)

    return _in_benchmark_thread(run) if switches.benchmark else run


# Torch keeps the kernel of each convolution by thread and by shape, but not by the switch with
# which it was chosen (aten/src/ATen/native/cudnn/Conv_v8.cpp: the cache is `thread_local`, and its
# key has no `benchmark`). In a thread that has computed a shape before, the switch does nothing; in
# a new thread all kernels are timed again. One thread of its own avoids both.
_benchmark_thread = ThreadPoolExecutor(1, "flowerseg-cudnn-benchmark")


def _in_benchmark_thread(network: Network) -> Network:
    """The network, called in the thread whose kernels were timed, on the caller's stream."""

    def run(images: Tensor) -> Tensor:
        is_inference = torch.is_inference_mode_enabled()
        stream = torch.cuda.current_stream(images.device) if images.is_cuda else None

        def on_stream() -> Tensor:
            with torch.inference_mode(is_inference), torch.cuda.stream(stream):
                return network(images)

        return _benchmark_thread.submit(on_stream).result()

    return run


def _set(*, allow_tf32: bool, benchmark: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = benchmark
