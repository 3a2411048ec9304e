"""Photos that a caller hands over in memory: checked once, for every function that takes them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowerseg.arrays import Rgb
from flowerseg.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

_WANTED = "a photo must be a uint8 array (h, w, 3) in RGB, or a PIL image"


def as_rgb(photo: object) -> Rgb:
    """The photo as an array (h, w, 3).

    Of a PIL image transparency is dropped, and it is turned by its EXIF orientation, as a file is.

    Args:
        photo: a uint8 array (h, w, 3) in RGB, or a PIL image.

    Raises:
        TypeError: it is neither.
        ValueError: an array of another type or shape, or a PIL image of a mode without 8 bits.
        ImageError: a PIL image whose file is damaged.
    """
    if isinstance(photo, np.ma.MaskedArray):
        raise TypeError(f"{_WANTED}, not a masked array: fill it with photo.filled(0)")
    if isinstance(photo, np.ndarray):
        if fault := _fault(photo):
            raise ValueError(f"{_WANTED}, not {photo.dtype} {photo.shape}: {fault}")
        return np.asarray(photo)
    if _is_pil(photo):
        return _from_pil(photo)
    raise TypeError(f"{_WANTED}, not {type(photo).__name__}{_advice(photo)}")


def as_rgb_of_several(photo: object, index: int, kind: str = "photo") -> Rgb:
    """`as_rgb`, with the index in the message of an error."""
    try:
        return as_rgb(photo)
    except (TypeError, ValueError, ImageError) as error:
        raise type(error)(f"{kind} {index}: {error}") from error.__cause__


def require_several(photos: object) -> None:
    """Refuse one photo, or what cannot hold photos, where several are wanted.

    Raises:
        TypeError: it is one path or one PIL image, or cannot hold photos.
        ValueError: an array that is not a batch (n, h, w, 3).
    """
    wanted = "photos must be several photos in a list or another iterable"
    if isinstance(photos, np.ndarray) and photos.ndim != 4 and photos.dtype != object:
        raise ValueError(f"{wanted}, not {photos.dtype} {photos.shape}: give one photo as [photo]")
    if isinstance(photos, str) or hasattr(photos, "__fspath__") or _is_pil(photos):
        raise TypeError(f"{wanted}, not one {type(photos).__name__}: give it as [photo]")
    if isinstance(photos, bytes | bytearray | Mapping) or not isinstance(photos, Iterable):
        raise TypeError(f"{wanted}, not {type(photos).__name__}")


def _fault(photo: NDArray[Any]) -> str:
    """What to do about an array that is not a photo; empty if it is one."""
    if photo.ndim == 4:
        return "give several photos to segment_batch"
    if photo.ndim == 2:
        return "repeat a grey photo in three channels, np.stack([grey] * 3, axis=-1)"
    if photo.ndim != 3:
        return "it needs height, width and three channels"
    if photo.shape[2] == 4:
        return "drop the fourth channel, photo[..., :3]"
    if photo.shape[2] != 3:
        is_channels_first = photo.shape[0] == 3
        return (
            "move the channels last, photo.transpose(1, 2, 0)"
            if is_channels_first
            else ("it needs three channels, the last of its dimensions")
        )
    if photo.dtype != np.uint8:
        if photo.dtype.kind == "f":
            return "scale it to 0 to 255 and convert it, (255 * photo).round().astype(np.uint8)"
        if photo.dtype == np.uint16:
            return "scale it to 8 bits, (photo >> 8).astype(np.uint8)"
        return "convert it to uint8, 0 to 255"
    return "" if min(photo.shape) > 0 else "it has no pixel"


def _is_pil(photo: object) -> bool:
    """Whether it is a PIL image, without importing PIL where the caller has not."""
    return any(kind.__module__ == "PIL.Image" for kind in type(photo).__mro__)


def _from_pil(image: Any) -> Rgb:
    from PIL import ImageOps

    if min(image.size) < 1:
        raise ValueError(f"{_WANTED}, not an image without a pixel")
    try:
        upright: Image = ImageOps.exif_transpose(image)  # which also reads its file
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"the file of a PIL image cannot be decoded: {error}.") from error
    if upright.mode.startswith("I;16"):
        grey = (np.asarray(upright) >> 8).astype(np.uint8)
        rgb: Rgb = np.repeat(grey[..., None], 3, axis=2)
    elif upright.mode in ("I", "F", "LAB", "HSV"):
        raise ValueError(f"{_WANTED}, not one of mode {upright.mode}: convert it to RGB")
    else:
        # By way of RGBA, a palette with transparency is converted without a warning.
        has_opacity = "transparency" in upright.info
        rgb = np.asarray((upright.convert("RGBA") if has_opacity else upright).convert("RGB"))
    return rgb


def _advice(photo: object) -> str:
    if isinstance(photo, bytes | bytearray):
        return ": decode it with flowerseg.images.decode_rgb"
    if isinstance(photo, str) or hasattr(photo, "__fspath__"):
        return ": read it with flowerseg.images.read_rgb"
    if isinstance(photo, list | tuple):
        return ": give several photos to segment_batch"
    if hasattr(photo, "__array__"):
        return ": convert it with numpy.asarray"
    return ""
