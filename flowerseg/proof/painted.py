"""Makes the self-test of a model: a painted photo whose map tells when a photo's path changes.

    python -m flowerseg.proof.painted MODEL.pt

gives a checkpoint its self-test; the file itself stays as it is, only its manifest is written.
"""

import base64
import dataclasses
import struct
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from flowerseg.arrays import Foreground, Rgb, SizeHW, size_of
from flowerseg.artifact import (
    Artifact,
    Kind,
    Precision,
    SelfTest,
    open_artifact,
    rewrite_manifest,
)
from flowerseg.backends.pytorch import open_checkpoint
from flowerseg.images import decode_rgb, encode_jpeg, encode_png, resize_area, resize_bilinear
from flowerseg.paint import paint_photo
from flowerseg.preprocess import Preprocess, frame_from_photo
from flowerseg.printable import printable
from flowerseg.segmenter import Segmenter
from flowerseg.selftest import TOLERANCES, difference

SEEDS = 6
ENOUGH = 5.0
"""Levels in the mean, twice what FP32 is allowed: a photo that tells as much ends the search."""

QUALITY = 50
"""Of the JPEG: what it coarsens is part of the photo, and a manifest stays below 40 KB at 224."""

TEXTURE = 32
"""Amplitude of the stripes along either side, in levels.

Averaging over areas blots them out, every other kernel leaves some of them or other ones. On a
plain painted photo the frames of two kernels differ by less than a level in the mean, with stripes
by 4 to 28, and the maps as much more.
"""

BLOCK = 8  # of JPEG's cosine transform
FREQUENCY = 7  # its highest: one coefficient a block and side, so that stripes take few bytes
LYING = 6  # EXIF: the first row is the photo's right side


@dataclass(frozen=True)
class _Candidate:
    """A painted photo and how much each fault of a path would change its map."""

    photo: bytes
    foreground: Foreground
    least_fault: float  # the least mean difference of a fault, in levels


def selftest_from_reference(reference: Segmenter) -> SelfTest | None:
    """The first painted photo whose map of the reference tells enough, else the one that tells
    best, with that map.

    None where no photo tells: a network that answers every photo alike, or one that a rounding
    moves as far as a fault does.
    """
    best: _Candidate | None = None
    for seed in range(SEEDS):
        candidate = _telling(reference, seed)
        if candidate and (best is None or candidate.least_fault > best.least_fault):
            best = candidate
        if best and best.least_fault >= ENOUGH:
            break
    if best is None:
        return None
    return SelfTest(_base64(best.photo), _base64(encode_png(best.foreground)))


def with_selftest(artifact: Artifact) -> Artifact:
    """A checkpoint with a self-test, made here if its manifest has none; nothing is written."""
    if artifact.manifest.kind is not Kind.CHECKPOINT or artifact.manifest.selftest:
        return artifact
    preprocess = artifact.manifest.preprocess
    with Segmenter(open_checkpoint(artifact, "cpu"), preprocess) as reference:
        selftest = selftest_from_reference(reference)
    manifest = dataclasses.replace(artifact.manifest, selftest=selftest)
    return Artifact(artifact.path, manifest)


def painted_jpeg(frame_hw: SizeHW, seed: int) -> bytes:
    """A painted photo under fine stripes, larger than the frame and of another shape, lying down.

    Less than twice the frame's size: decoded at half scale it is too small.
    """
    height, width = _blocks(frame_hw[0] * 10 / 7), _blocks(frame_hw[1] * 12 / 7)
    painted = paint_photo((height, width), seed).rgb
    # Room for the stripes: where samples were cut off at 0 and 255 they would not average out.
    dimmed = 2 * TEXTURE + painted * ((255 - 4 * TEXTURE) / 255)
    stripes = _stripes(height)[:, None, None] + _stripes(width)[None, :, None]
    rgb = (dimmed + TEXTURE * stripes).round().astype(np.uint8)
    return _with_orientation(encode_jpeg(np.ascontiguousarray(np.rot90(rgb)), QUALITY), LYING)


def faulty_frames(rgb: Rgb, preprocess: Preprocess) -> list[Rgb]:
    """Frames of an upright photo as paths with one fault each would make them."""
    size_hw, (height, width) = preprocess.size_hw, size_of(rgb)
    lying = np.ascontiguousarray(np.rot90(rgb))
    return [
        resize_bilinear(rgb, size_hw),  # no antialiasing
        resize_area(resize_area(rgb, (height // 2, width // 2)), size_hw),  # decoded at half scale
        frame_from_photo(rgb, preprocess)[..., ::-1],  # BGR
        resize_area(lying, size_hw),  # EXIF ignored
    ]


def _telling(reference: Segmenter, seed: int) -> _Candidate | None:
    """A candidate; None where a fault does not show on its map, or a rounding does.

    The subtlest fault goes first, because each map of a large network takes half a second.
    """
    preprocess, allowed = reference.preprocess, TOLERANCES[Precision.FP32]
    photo = painted_jpeg(preprocess.size_hw, seed)
    rgb = decode_rgb(photo, f"painted photo {seed}")
    frame = frame_from_photo(rgb, preprocess)
    subtlest, *others = faulty_frames(rgb, preprocess)
    right, first = reference.infer([frame, subtlest])
    if not difference(first, right).exceeds(allowed):
        return None
    rounded, *faulty = reference.infer([_rounded_otherwise(frame, seed), *others])
    faults = [difference(map_, right) for map_ in (first, *faulty)]
    if difference(rounded, right).exceeds(allowed) or not all(f.exceeds(allowed) for f in faults):
        return None
    return _Candidate(photo, right, min(fault.mean for fault in faults))


def _rounded_otherwise(frame: Rgb, seed: int) -> Rgb:
    """The frame with every sample off by one, up or down: more than decoders and INT8 round.

    A photo that a network is wholly unsure of shows faults best, but INT8 moved it by 18 levels.
    """
    off = np.random.default_rng(seed).choice([-1, 1], frame.shape)
    rounded: Rgb = np.clip(frame + off, 0, 255).astype(np.uint8)
    return rounded


def _blocks(length: float) -> int:
    return BLOCK * round(length / BLOCK)


def _stripes(length: int) -> NDArray[np.float64]:
    place = np.arange(length) % BLOCK
    return np.cos((2 * place + 1) * FREQUENCY * np.pi / (2 * BLOCK))


def _with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with the EXIF tag that says how the photo was held.

    Source: Exif 2.3, sections 4.5.4 and 4.6.4 (tag 0x0112, a SHORT, in the first directory).
    """
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    content = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    return jpeg[:2] + segment + jpeg[2:]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
def main(model: Path) -> None:
    """Give the checkpoint MODEL a self-test: write it into the manifest beside the file."""
    artifact = with_selftest(open_artifact(model))
    if artifact.manifest.selftest is None:
        raise click.ClickException(f"{model}: no checkpoint, or no painted photo tells.")
    rewrite_manifest(artifact)
    size = len(artifact.manifest.to_json())
    click.echo(printable(f"{model}: self-test written, manifest of {size / 1024:.1f} KB"))


if __name__ == "__main__":
    main()
