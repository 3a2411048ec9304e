"""One opened model in many threads, after close, and in forked processes."""

import copy
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import numpy as np
import pytest

from flowerseg.arrays import Rgb
from flowerseg.artifact import Artifact
from flowerseg.backends import SessionOptions
from flowerseg.backends.null import NullBackend
from flowerseg.errors import BackendUnavailable
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

FRAME = Preprocess((64, 64))
THREADS = 8
CALLS = 5
RUNTIMES = [
    "null",
    "pytorch",
    "onnxruntime",
    "openvino",
    "onnxruntime 2",
    "openvino 2",
    pytest.param("aotinductor", marks=pytest.mark.slow),
    pytest.param("torch-compile", marks=pytest.mark.slow),
]


def _photos(count: int) -> list[Rgb]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (50 + i, 60, 3), dtype=np.uint8) for i in range(count)]


@pytest.fixture
def segmenter(request: pytest.FixtureRequest) -> Iterator[Segmenter]:
    runtime, _, streams = request.param.partition(" ")
    if runtime == "null":
        yield Segmenter(NullBackend((64, 64)), FRAME)
        return
    fixture = {"aotinductor": "pt2_package", "pytorch": "reference", "torch-compile": "reference"}
    artifact: Artifact = request.getfixturevalue(fixture.get(runtime, "fp32_onnx"))
    options = SessionOptions(streams=int(streams or 1))
    with Segmenter.open(
        artifact.path, device="cpu", runtime=runtime, options=options, allow_unproven=True
    ) as opened:
        yield opened


@pytest.mark.parametrize("segmenter", RUNTIMES, indirect=True)
def test_threads_get_the_results_that_one_thread_gets(segmenter: Segmenter) -> None:
    photos = _photos(THREADS)
    expected = [segmenter.probability(rgb) for rgb in photos]
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(segmenter.probability, photos * CALLS))
    for one, other in zip(found, expected * CALLS, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("segmenter", RUNTIMES, indirect=True)
def test_closed_segmenter_refuses_every_call(segmenter: Segmenter) -> None:
    (rgb,) = _photos(1)
    infer = segmenter.streams[0]
    segmenter.close()
    segmenter.close()
    for call in (
        lambda: segmenter.segment(rgb),
        lambda: segmenter.segment_batch([rgb]),
        lambda: segmenter.probability(rgb),
        lambda: segmenter.infer([rgb]),
        lambda: infer([rgb]),
        lambda: segmenter.streams,
        lambda: segmenter.backends,
        lambda: segmenter.__enter__(),
    ):
        with pytest.raises(ValueError, match="this Segmenter is closed; open it again"):
            call()


class _Slow(NullBackend):
    """Stays in a batch until it may go on."""

    def __init__(self) -> None:
        super().__init__((64, 64))
        self.is_inside, self.may_go, self.is_closed = Event(), Event(), False

    def execute(self) -> None:
        self.is_inside.set()
        assert self.may_go.wait(10)
        assert not self.is_closed

    def close(self) -> None:
        self.is_closed = True


def test_close_waits_for_the_call_of_another_thread() -> None:
    slow = _Slow()
    segmenter = Segmenter(slow, FRAME)
    (rgb,) = _photos(1)
    with ThreadPoolExecutor(2) as threads:
        inside = threads.submit(segmenter.segment, rgb)
        assert slow.is_inside.wait(10)
        waiting = threads.submit(segmenter.segment, rgb)
        closing = Thread(target=segmenter.close)
        closing.start()
        with pytest.raises(ValueError, match="is closed"):  # it does not wait for a backend
            waiting.result(10)
        assert not slow.is_closed
        slow.may_go.set()
        assert inside.result(10).shape == (50, 60)
        closing.join(10)
    assert slow.is_closed


def test_streams_run_at_the_same_time() -> None:
    one, two = _Slow(), _Slow()
    segmenter = Segmenter(one, FRAME, others=[two])
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(segmenter.segment, rgb) for rgb in _photos(2)]
        assert one.is_inside.wait(10)
        assert two.is_inside.wait(10)
        for backend in (one, two):
            backend.may_go.set()
        assert [call.result(10).shape for call in calls] == [(50, 60), (51, 60)]


def test_backend_is_free_again_after_an_error() -> None:
    segmenter = Segmenter(NullBackend((64, 64)), FRAME)
    with pytest.raises(ValueError, match=r"frame 0: it must be \(64, 64, 3\)"):
        segmenter.infer([np.zeros((3, 3, 3), np.uint8)])
    assert segmenter.segment(_photos(1)[0]).shape == (50, 60)


_FORK_AFTER_CLOSING = """
import gc, os, sys
import numpy as np
from flowerseg.errors import BackendUnavailable
from flowerseg.segmenter import Segmenter

model, runtime = sys.argv[1:]
open_it = lambda: Segmenter.open(model, device="cpu", runtime=runtime, allow_unproven=True)
with open_it() as segmenter:
    segmenter.segment(np.zeros((50, 60, 3), np.uint8))
del segmenter
gc.collect()
if os.fork() == 0:
    try:
        open_it()
    except BackendUnavailable as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""

_FORK = """
import gc, os, sys
import numpy as np
from flowerseg.errors import BackendUnavailable
from flowerseg.segmenter import Segmenter

model, runtime = sys.argv[1:]
rgb = np.zeros((50, 60, 3), np.uint8)
open_it = lambda: Segmenter.open(model, device="cpu", runtime=runtime, allow_unproven=True)
segmenter = open_it()
segmenter.segment(rgb)
if os.fork() == 0:
    for call in (lambda: segmenter.segment(rgb), open_it):
        try:
            call()
        except BackendUnavailable as error:
            print(error)
    segmenter.close()
    del segmenter, call
    gc.collect()
    sys.stdout.flush()
    os._exit(0)
_, status = os.wait()
segmenter.segment(rgb)
print(status)
"""


def _printed(program: str, artifact: Artifact, runtime: str) -> str:
    with subprocess.Popen(
        [sys.executable, "-c", program, str(artifact.path), runtime],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            return process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the child too
            raise


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_process_opens_no_model_after_its_parent_closed_one(reference: Artifact) -> None:
    printed = _printed(_FORK_AFTER_CLOSING, reference, "pytorch")
    assert printed.startswith("this process was forked from process ")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    ("runtime", "fixture"),
    [
        ("pytorch", "reference"),
        ("onnxruntime", "fp32_onnx"),
        ("openvino", "fp32_onnx"),
        pytest.param("aotinductor", "pt2_package", marks=pytest.mark.slow),
    ],
)
def test_forked_process_gets_an_error_and_does_not_hang(
    runtime: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    artifact: Artifact = request.getfixturevalue(fixture)
    used, opened, status = _printed(_FORK, artifact, runtime).splitlines()
    assert used.startswith("this Segmenter was opened in process ")
    assert "spawn" in used
    assert opened.startswith("this process was forked from process ")
    assert status == "0"


def test_error_of_another_process_needs_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter(NullBackend((64, 64)), FRAME)
    with segmenter._pool._returned:  # as if a thread of the parent had held it during the fork
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(BackendUnavailable, match="this is process -1"):
            segmenter.segment(_photos(1)[0])
        segmenter.close()


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_segmenter_is_not_pickled_or_copied(duplicate: object) -> None:
    assert callable(duplicate)
    with pytest.raises(TypeError, match="a Segmenter cannot be pickled or copied; open the model"):
        duplicate(Segmenter(NullBackend((64, 64)), FRAME))
