"""Is another way from a photo's file to the network's frame as good as the one that was trained on?

    python -m flowerseg.proof.routes --model flower.pt --photos photos

The reference route decodes the whole photo and averages areas. A faster one (a decode at reduced
scale, a resize on the GPU) may replace it only where the model's masks agree with those that the
reference route gives.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from flowerseg.arrays import Rgb, size_of
from flowerseg.images import decode_rgb, decode_rgb_reduced
from flowerseg.listing import list_photos
from flowerseg.metrics import agreement_iou, count_agreement, total
from flowerseg.preprocess import Preprocess, frame_from_photo
from flowerseg.printable import printable
from flowerseg.segmenter import Segmenter

ENOUGH = 0.998
"""Agreement IoU from which a route counts as the same: that of a proved FP16 file.

On 60 photos and a trained MobileNetV3 half precision gave 0.9998, the mildest swap of a route
0.993: this separates rounding from another preprocess.
"""

Route = Callable[[bytes, Preprocess], Rgb]
"""From the bytes of a photo's file to the frame (H, W, 3)."""


@dataclass(frozen=True)
class RouteAgreement:
    """What a route does to a model's masks, against the reference route."""

    route: str
    photos: int
    agreement_iou: float
    frame_mean: float  # mean absolute difference of the frames' samples, in levels
    frame_largest: int  # the largest, in levels

    @property
    def is_same(self) -> bool:
        """Whether the route may stand in for the reference."""
        return self.agreement_iou >= ENOUGH


def full_decode(data: bytes, preprocess: Preprocess) -> Rgb:
    """The reference: whole photo, areas averaged."""
    return frame_from_photo(decode_rgb(data, "photo"), preprocess)


def half_scale_decode(data: bytes, preprocess: Preprocess) -> Rgb:
    """JPEG decoded at half scale by its cosine transform, then areas averaged."""
    return frame_from_photo(decode_rgb_reduced(data, "photo"), preprocess)


def torch_antialiased(data: bytes, preprocess: Preprocess) -> Rgb:
    """Whole photo, resized by torch's antialiased bilinear filter, as on a GPU."""
    rgb = torch.from_numpy(decode_rgb(data, "photo")).permute(2, 0, 1)[None].float()
    frame = functional.interpolate(
        rgb, preprocess.size_hw, mode="bilinear", align_corners=False, antialias=True
    )
    levels = frame.round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels[0].permute(1, 2, 0).numpy())


def torchvision_decode(data: bytes, preprocess: Preprocess, device: str = "cuda") -> Rgb:
    """JPEG decoded by torchvision, which on CUDA is nvJPEG, then areas averaged.

    Other formats, and photos that EXIF turns, which it does not do on CUDA, go by the reference.
    """
    if not data.startswith(b"\xff\xd8"):
        return full_decode(data, preprocess)
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    decode = partial(decode_jpeg, encoded, ImageReadMode.RGB)
    with warnings.catch_warnings():
        # Its decoders go, for TorchCodec's, which call nvJPEG too (torchvision 0.29).
        warnings.simplefilter("ignore", DeprecationWarning)
        if not torch.equal(decode(), decode(apply_exif_orientation=True)):
            return full_decode(data, preprocess)
        rgb = decode(device=device)
    return frame_from_photo(rgb.permute(1, 2, 0).contiguous().cpu().numpy(), preprocess)


ROUTES: dict[str, Route] = {
    "full decode, area": full_decode,
    "JPEG at half scale, area": half_scale_decode,
    "full decode, torch antialiased": torch_antialiased,
}
"""The routes that exist; the first is the one that models are trained, proved and run with."""

ON_CUDA: dict[str, Route] = {"JPEG by nvJPEG, area": torchvision_decode}
"""Further ones that take a GPU."""


def compare_routes(
    segmenter: Segmenter, photos: Sequence[Path], routes: dict[str, Route] | None = None
) -> list[RouteAgreement]:
    """Masks at the photos' own size by each route, against those by the reference route.

    Raises:
        ImageError: a photo cannot be decoded.
        ValueError: there are no photos.
    """
    if not photos:
        raise ValueError("no photos to compare routes on")
    return [
        _agreement(segmenter, photos, name, route) for name, route in (routes or ROUTES).items()
    ]


def _agreement(
    segmenter: Segmenter, photos: Sequence[Path], name: str, route: Route
) -> RouteAgreement:
    counts, means, largest = [], [], 0
    for path in photos:
        data = path.read_bytes()
        size_hw = size_of(decode_rgb(data, str(path)))
        frames = [r(data, segmenter.preprocess) for r in (route, full_decode)]
        masks = [segmenter.mask(f, size_hw) for f in (segmenter.infer([f])[0] for f in frames)]
        counts.append(count_agreement(*masks))
        apart = np.abs(frames[0].astype(np.int16) - frames[1])
        means.append(float(apart.mean()))
        largest = max(largest, int(apart.max()))
    return RouteAgreement(
        name, len(photos), agreement_iou(total(counts)), float(np.mean(means)), largest
    )


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True)
@click.option("--photos", type=click.Path(path_type=Path), required=True, help="Folder of photos.")
@click.option("--limit", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(model: Path, photos: Path, limit: int, device: str) -> None:
    """Say which routes from file to frame leave a model's masks as they are."""
    paths = [photos / photo for photo in list_photos(photos, photos / "none").photos][:limit]
    with Segmenter.open(model, device=device) as segmenter:
        on_gpu = segmenter.info.device.startswith("cuda")
        found = compare_routes(segmenter, paths, ROUTES | ON_CUDA if on_gpu else ROUTES)
        where = f"{model.name} on {len(paths)} photos of {photos.name}, {segmenter.info}"
    click.echo(f"{printable(where)}\n{routes_text(found)}", nl=False)


def routes_text(found: Sequence[RouteAgreement]) -> str:
    """A table of routes."""
    table = Table("route", "agreement IoU", "frames differ, mean", "most", "the same", box=None)
    for row in found:
        table.add_row(
            row.route,
            f"{row.agreement_iou:.4f}",
            f"{row.frame_mean:.2f}",
            str(row.frame_largest),
            "yes" if row.is_same else f"no (below {ENOUGH})",
        )
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return text.getvalue()


if __name__ == "__main__":
    main()
