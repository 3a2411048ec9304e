"""The proof: do the masks of the very file that ships equal those of the FP32 PyTorch model?"""

from flowerseg.proof.compare import BAND_PX, Compared, Expected, compare, expect
from flowerseg.proof.limits import LIMITS, limits_of
from flowerseg.proof.passes import OnBatch, Worst
from flowerseg.proof.prove import Evidence, prove, refuse_stranger

__all__ = [
    "BAND_PX",
    "LIMITS",
    "Compared",
    "Evidence",
    "Expected",
    "OnBatch",
    "Worst",
    "compare",
    "expect",
    "limits_of",
    "prove",
    "refuse_stranger",
]
