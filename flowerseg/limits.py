"""What the system allows one user: threads, processes and open files may run out."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from flowerseg.errors import FlowersegError

_NO_MORE = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def frugal_environment() -> dict[str, str]:
    """The environment for a process that decodes photos: NumPy's OpenBLAS needs no threads there.

    It would start one for each core as it is imported, and interrupt the process where it may not.
    """
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def explained_start(what: str) -> Iterator[None]:
    """Turn the refusal of one more thread or process into an error that a user can act on.

    Args:
        what: the only thing that is started within.

    Raises:
        FlowersegError: the system starts no more.
    """
    try:
        yield
    except RuntimeError as error:  # of threads; it has no code
        raise _refused(what, str(error)) from error
    except OSError as error:
        if error.errno not in _NO_MORE:
            raise
        raise _refused(what, str(error.strerror)) from error


def _refused(what: str, reason: str) -> FlowersegError:
    return FlowersegError(
        f"The system does not start {what}: {reason}. Raise the limit (ulimit -u for threads and "
        "processes, ulimit -n for files), or use fewer --workers and --processes, and run again."
    )
