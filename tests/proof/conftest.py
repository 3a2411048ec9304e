"""What the tests of the proof share."""

from collections.abc import Callable

import pytest

from flowerseg.artifact import Precision
from flowerseg.proof import LIMITS
from flowerseg.proof.faults import faults_of
from flowerseg.proof.prove import Evidence


@pytest.fixture
def found_at() -> Callable[[Evidence], set[str]]:
    """The precisions at whose limits something is found in what was measured once."""

    def find(evidence: Evidence) -> set[str]:
        precisions = (Precision.FP32, Precision.FP16, Precision.INT8)
        return {
            p.value for p in precisions if faults_of(evidence.parity, evidence.expected, LIMITS[p])
        }

    return find
