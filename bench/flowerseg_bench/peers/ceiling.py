"""How fast the arithmetic of a file lets any way with it be, on the processor at hand."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowerseg.artifact import Precision
from flowerseg_bench.limits import SIDE, matrix_gflop_per_s, matrix_type
from flowerseg_bench.macs import multiply_adds_of_file
from flowerseg_bench.timing import Budget, Clock

_BUDGET = Budget(for_s=2.0)


@dataclass(frozen=True)
class Ceiling:
    """What no runtime goes beyond with a file, if it computes convolutions by their definition."""

    file: str
    sha256: str
    precision: Precision  # that it is computed in
    multiply_adds: int  # of a photo, those that meet padding left out
    matrix_gflop_per_s: float  # the processor's in that precision: the fastest of several

    @property
    def photos_per_s(self) -> float:
        """With all cores at that rate from the first photo to the last, and nothing else to do."""
        return self.matrix_gflop_per_s / (2e-9 * self.multiply_adds)


def ceilings_of(files: Iterable[tuple[str, str, Precision]], clock: Clock) -> list[Ceiling]:
    """Measure the processor for every file, given with its SHA-256 and the precision.

    What cannot be counted has no ceiling.
    """
    rates: dict[str, float] = {}
    ceilings = []
    for file, sha256, precision in files:
        computed_in = matrix_type(precision, "cpu")
        count = multiply_adds_of_file(Path(file), with_padding=False)
        if not computed_in or not count:
            continue
        if computed_in not in rates:
            rates[computed_in] = matrix_gflop_per_s("cpu", computed_in, SIDE["cpu"], _BUDGET, clock)
        ceilings.append(Ceiling(file, sha256, precision, count, rates[computed_in]))
    return ceilings
