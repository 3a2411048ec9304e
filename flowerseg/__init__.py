"""From a folder of labelled photos to a GPU engine you can trust.

    from flowerseg import Segmenter
    with Segmenter.open("models/flower.onnx") as segmenter:
        mask = segmenter.segment(rgb)   # rgb: (h, w, 3) uint8 -> mask: (h, w) bool

Importing the package is light: torch and the runtimes load when a model is opened.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Segmenter", "__version__"]

if TYPE_CHECKING:
    from flowerseg.segmenter import Segmenter


def __getattr__(name: str) -> object:
    if name == "Segmenter":
        from flowerseg.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
