"""The errors a user can act on.

FlowersegError              shown without a traceback, exit code 1
├─ ImageError               a photo or mask that cannot be read
├─ DataError                a data set that cannot be used as it is
├─ DownloadError            a file that could not be fetched, or did not arrive whole
├─ ArtifactError            a model file that is missing, stale, changed or foreign
├─ BackendUnavailable       a runtime or device that is not here
├─ ExportError              a conversion that a runtime refused
├─ TrainingError            a training run that cannot go on
├─ OutputError              a result that cannot be written
│  └─ NameTooLong           only this one cannot: its name is too long
├─ Stopped                  a run that was told to end before its end
└─ ParityError              outputs that disagree beyond the limit

Each message says what is wrong, where, and what to do next. Wrong use of a Python function is
`ValueError` or `TypeError`; those are bugs of the caller and keep their traceback.
"""

from collections.abc import Iterable

from flowerseg.printable import printable


class FlowersegError(Exception):
    """Base of everything that a user, not a programmer, has to mend.

    Args:
        lines: the message, as a rule one line. A line break within a line is part of a name, and
            is printed as an escape; see `flowerseg.printable`.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ImageError(FlowersegError):
    """A photo or mask that cannot be decoded, or not as what it claims to be."""


class DataError(FlowersegError):
    """A data set that cannot be used: missing, unpaired, unknown colours, empty split."""


class DownloadError(FlowersegError):
    """A file that could not be fetched, or is not the one that was published."""


class ArtifactError(FlowersegError):
    """A model file that is missing, without its manifest, changed, stale or built elsewhere."""


class BackendUnavailable(FlowersegError):
    """A runtime that is not installed, or a device or provider that is not here."""


class ExportError(FlowersegError):
    """A conversion that failed; the message carries what the converter said."""


class TrainingError(FlowersegError):
    """A training run that cannot start or go on."""


class ParityError(FlowersegError):
    """A model whose masks differ from the reference by more than the limit."""


class OutputError(FlowersegError):
    """A result that cannot be written: disk full, read-only folder."""


class NameTooLong(OutputError):
    """A result whose name the file system does not take; others may be written."""


class Stopped(FlowersegError):
    """A run that ended early because it was told to; the same again goes on."""


def some_of(names: Iterable[str], most: int = 3) -> str:
    """The first few of some names for a message: `a, b, c, …`."""
    listed = [printable(name) for name in names]
    return ", ".join(listed[:most] + ["…"] * (len(listed) > most))
