"""A backend that does nothing: it measures the harness, and stands in for a runtime in tests."""

import numpy as np

from flowerseg.arrays import Foreground, Images, SizeHW
from flowerseg.artifact import Batch
from flowerseg.backends.base import BackendInfo


class NullBackend:
    """Answers every pixel with its green sample, so that a test can tell the photos apart."""

    def __init__(self, size_hw: SizeHW = (224, 224), batch: Batch | None = None) -> None:
        self.info = BackendInfo("null", "1", "cpu", "none", "none", size_hw, batch)
        self._images: Images = np.empty((0, *size_hw, 3), np.uint8)

    def upload(self, images: Images) -> None:
        """Keep the batch."""
        self._images = images

    def execute(self) -> None:
        """Nothing."""

    def synchronize(self) -> None:
        """Nothing."""

    def download(self) -> Foreground:
        """The green channel of the batch."""
        return self._images[..., 1].copy()

    def close(self) -> None:
        """Nothing."""
