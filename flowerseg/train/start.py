"""What the weights that a run starts from have learned from already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flowerseg.artifact import Data
from flowerseg.caveats import Caveat
from flowerseg.evaluate import seen_caveats
from flowerseg.labelled import PhotoSet
from flowerseg.seen import NO_PHOTOS, TrainingPhotos
from flowerseg.weights import NAMED_WEIGHTS, training_data_of


@dataclass(frozen=True)
class StartingPhotos:
    """The photos behind starting weights: those of a file, or none of the user's."""

    is_file: bool
    data: Data | None  # of a file, as its manifest has it

    @classmethod
    def of(cls, weights: str) -> Self:
        """Of weights as `TrainConfig.weights` names them."""
        is_file = weights not in NAMED_WEIGHTS
        return cls(is_file, training_data_of(Path(weights)) if is_file else None)

    @property
    def photos(self) -> TrainingPhotos | None:
        """What the weights have learned from; None where that is not known."""
        if not self.is_file:
            return NO_PHOTOS
        return self.data.seen if self.data else None

    def caveats(self, photos: PhotoSet, signatures: Sequence[bytes]) -> tuple[Caveat, ...]:
        """What that means for scores on some photos, which have these signatures."""
        return seen_caveats(self.data, photos, signatures) if self.is_file else ()
