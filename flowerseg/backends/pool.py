"""The backends of one opened model, shared by threads: each runs one batch at a time."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Condition
from weakref import WeakSet

from flowerseg.backends.base import Backend
from flowerseg.errors import BackendUnavailable

_POOLS: "WeakSet[BackendPool]" = WeakSet()
"""All pools of this process, whose backends a forked process must not free."""

_FORKED_FROM: list[int] = []
"""The parent process, if it had opened a model before it forked this one; else empty."""


def require_no_fork_since_opening() -> None:
    """Refuse to open a model where the runtimes' threads were lost in a fork.

    Raises:
        BackendUnavailable: the parent had opened a model before it forked this process. PyTorch and
            OpenVINO would wait for ever for threads that only the parent has.
    """
    if _FORKED_FROM:
        raise BackendUnavailable(
            f"this process was forked from process {_FORKED_FROM[0]}, which had opened a model "
            "before, and runtimes do not survive a fork. Open models after the fork only, or start "
            "processes with multiprocessing's spawn method."
        )


class BackendPool:
    """Lends each backend to one thread at a time; other threads wait until one is free.

    Args:
        backends: one for each stream, all of the same model.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = tuple(backends)
        self._free = list(backends)
        self._is_closed = False
        self._returned = Condition()
        self._process = os.getpid()
        _POOLS.add(self)
        remember_opening()

    def abandon(self) -> None:
        """Keep the backends alive until the process ends.

        OpenVINO's destructors wait for threads that a forked process lacks, also at the end of the
        interpreter.
        """
        for backend in self.backends:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))

    @contextmanager
    def lend(self, wanted: Backend | None = None) -> Iterator[Backend]:
        """Lend a backend for the duration of the block, once it is free.

        Args:
            wanted: one of the pool's backends; None: any of them.

        Raises:
            ValueError: the pool is closed.
            BackendUnavailable: this process was forked from the one that opened the model.
        """
        self.require_open()
        with self._returned:
            self._returned.wait_for(lambda: self._is_closed or self._has_free(wanted))
            self.require_open()
            backend = self._free[-1] if wanted is None else wanted
            self._free.remove(backend)
        try:
            yield backend
        finally:
            with self._returned:
                self._free.append(backend)
                self._returned.notify_all()

    def require_open(self) -> None:
        """Refuse what a closed model, or one of another process, cannot do.

        Raises:
            ValueError: the pool is closed.
            BackendUnavailable: this process was forked from the one that opened the model.
        """
        # The process comes first: a lock that another thread held during the fork stays locked.
        if (here := os.getpid()) != self._process:
            raise BackendUnavailable(
                f"this Segmenter was opened in process {self._process}, and this is process "
                f"{here}: runtimes do not survive a fork. Start this process with "
                "multiprocessing's spawn method and open the model in it."
            )
        if self._is_closed:
            raise ValueError("this Segmenter is closed; open it again")

    def close(self) -> None:
        """Close all backends, once the batches under way have finished. Twice is fine.

        In a forked process it has no effect: what the runtime holds belongs to the parent.
        """
        if os.getpid() != self._process:
            return
        with self._returned:
            self._is_closed = True
            self._returned.notify_all()
            self._returned.wait_for(lambda: len(self._free) == len(self.backends))
            backends, self.backends, self._free = self.backends, (), []
        for backend in backends:
            backend.close()

    def _has_free(self, wanted: Backend | None) -> bool:
        return bool(self._free) if wanted is None else wanted in self._free


@cache
def remember_opening() -> None:
    """From now on a forked process can open no model: see `require_no_fork_since_opening`.

    Closing the model does not change that, because the runtimes keep their threads.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_abandon_all)


def _abandon_all() -> None:
    _FORKED_FROM[:] = [os.getppid()]
    for pool in _POOLS:
        pool.abandon()
