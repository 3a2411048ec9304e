"""From a photo to the network's frame: one definition, saved with every model."""

from dataclasses import dataclass
from typing import Literal

from flowerseg.arrays import Labels, Rgb, SizeHW
from flowerseg.images import resize_area, resize_nearest


@dataclass(frozen=True)
class Preprocess:
    """How a decoded photo becomes a frame. Data, not behaviour: it travels in every manifest.

    Normalisation is not here, because it is inside the graph.
    """

    size_hw: SizeHW = (224, 224)
    fit: Literal["stretch"] = "stretch"  # aspect ratio is not kept, as in the original study
    kernel: Literal["area"] = "area"  # `images.resize_area`: antialiased
    colour: Literal["rgb"] = "rgb"
    orientation: Literal["exif"] = "exif"  # the photo as people see it

    def __post_init__(self) -> None:
        if min(self.size_hw) < 32 or max(self.size_hw) > 4096:
            raise ValueError(f"size_hw must lie between 32 and 4096, not {self.size_hw}")
        known = {"fit": "stretch", "kernel": "area", "colour": "rgb", "orientation": "exif"}
        for field, value in known.items():
            if getattr(self, field) != value:
                raise ValueError(f"unknown {field} {getattr(self, field)!r}; known: {value!r}")


def frame_from_photo(rgb: Rgb, preprocess: Preprocess) -> Rgb:
    """Resize a decoded, upright RGB photo (h, w, 3) to the network's frame (H, W, 3)."""
    return resize_area(rgb, preprocess.size_hw)


def frame_from_labels(labels: Labels, preprocess: Preprocess) -> Labels:
    """Resize labels like their photo, by nearest neighbour: no label is ever a mixture."""
    return resize_nearest(labels, preprocess.size_hw)
