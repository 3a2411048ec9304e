"""The GPU's own clock, by a fake CUDA whose events know the order in which they were recorded."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flowerseg.backends.null import NullBackend
from flowerseg_bench.boundaries import engine_step
from flowerseg_bench.events import CudaEvents, events_of

SIZE_HW = (32, 32)


class FakeGpu:
    """Works behind the caller's back: `execute` takes 4 ms of its own clock, and none of ours."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.log: list[str] = []

    def event(self, enable_timing: bool) -> "FakeEvent":
        assert enable_timing
        return FakeEvent(self)

    def execute(self) -> None:
        self.log.append("execute")
        self.now_ms += 4.0


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def record(self, stream: object) -> None:
        self.gpu.log.append(f"record on {stream}")
        self.at_ms = self.gpu.now_ms

    def synchronize(self) -> None:
        self.gpu.log.append("wait")

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.at_ms - self.at_ms


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    return gpu


def test_events_lie_around_execute_and_are_read_when_the_gpu_has_passed_them(
    fake_gpu: FakeGpu,
) -> None:
    backend = NullBackend(SIZE_HW)
    backend.execute = fake_gpu.execute  # type: ignore[method-assign]
    events = CudaEvents("its stream")
    step = engine_step(backend, [np.zeros((1, *SIZE_HW, 3), np.uint8)], lambda: 0.0, events)

    stages_s = step(0)
    step(1)

    assert fake_gpu.log[:4] == ["record on its stream", "execute", "record on its stream", "wait"]
    assert events.median_ms == 4.0
    assert sum(stages_s) == 0.0  # by our clock nothing happened: the two must be compared


def test_a_backend_on_the_cpu_has_no_events() -> None:
    assert events_of(NullBackend(SIZE_HW)) is None


@pytest.mark.parametrize(("stream", "expected"), [("own", "own"), (None, "stream of cuda:0")])
def test_events_go_to_the_stream_that_the_backend_works_on(
    fake_gpu: FakeGpu, stream: str | None, expected: str
) -> None:
    backend = SimpleNamespace(info=SimpleNamespace(device="cuda:0"))
    if stream:
        backend.stream = stream

    events = events_of(backend)  # type: ignore[arg-type]
    assert events is not None
    events.around(fake_gpu.execute)

    assert fake_gpu.log[0] == f"record on {expected}"


def test_nothing_read_is_nothing_claimed(fake_gpu: FakeGpu) -> None:
    assert CudaEvents("s").median_ms is None
