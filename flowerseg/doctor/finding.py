"""A part of the chain, what was found when it was tried, and how a trial is survived."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["works", "doubt", "missing", "broken"]

Check = Callable[[], str]
"""Tries a part and says what works; what it raises is the finding."""


@dataclass(frozen=True)
class Part:
    """Something that the chain needs or can use."""

    name: str
    check: Check
    mend: str = ""  # what helps where it is missing; a `Trouble` may know better
    packages: str = ""  # what pip installs anew where the part breaks
    is_required: bool = False  # without it nothing runs at all

    def broken(self, detail: str) -> "Finding":
        """The finding where it is there and fails in a way that nobody foresaw."""
        mend = f"pip install --force-reinstall {self.packages}" if self.packages else self.mend
        return Finding(self.name, "broken", detail, mend, self.is_required)


@dataclass(frozen=True)
class Finding:
    """What became of a part."""

    name: str
    state: State
    detail: str
    mend: str = ""  # the command or the step that helps; a line each
    is_required: bool = False

    @property
    def is_usable(self) -> bool:
        """It works, perhaps with a caution."""
        return self.state in ("works", "doubt")


class Trouble(Exception):
    """What a check found wrong, in words that a user understands."""

    def __init__(self, state: State, detail: str, mend: str | None = None) -> None:
        super().__init__(detail)
        self.state = state
        self.detail = detail
        self.mend = mend  # None: that of the part


def tried(part: Part) -> Finding:
    """Run a check; whatever it raises becomes a finding, but for Ctrl-C."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Finding(part.name, "works", part.check(), is_required=part.is_required)
    except KeyboardInterrupt:
        raise
    except Trouble as trouble:
        mend = part.mend if trouble.mend is None else trouble.mend
        return Finding(part.name, trouble.state, trouble.detail, mend, part.is_required)
    except ModuleNotFoundError as error:
        detail = f"{error.name} is not installed" if error.name else _said(error)
        return Finding(part.name, "missing", detail, part.mend, part.is_required)
    # Not only Exception: an import may end in SystemExit, or in the panic of an extension module.
    # A doctor that dies of what it finds is of no use.
    except BaseException as error:
        return part.broken(_said(error))


def _said(error: BaseException) -> str:
    """The first line of an error, whose own text may raise."""
    try:
        said = str(error).strip().partition("\n")[0][:300]
    except Exception:
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
