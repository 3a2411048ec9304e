"""Good photos among files that are no photo, or no longer one: what a folder run makes of both.

A photo is cut at every hundredth of its length, and at fewer places in the other formats; bits are
flipped; first bytes lie; small files unpack to gigapixels; some are nothing but zeros; names are as
odd as a file system takes. The good photos have to come out as they do alone, and the process has
to come to its end.
"""

import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowerseg.arrays import Rgb
from flowerseg.files import sha256_of
from flowerseg.images import encode_image, read_rgb
from flowerseg.listing import list_photos
from flowerseg_bench.photos import link_photos
from flowerseg_bench.record import Finding, table_of

FORMATS = (".jpg", ".png", ".webp", ".tif", ".bmp")
GOOD = 300
ENDED_WELL = (0, 1)  # 1: some photos failed, as they have to

# The first bytes of what is not read here, and of programs, pages and archives.
_OTHERS = (
    *(b"GIF89a", b"%PDF-1.7", b"PK\3\4", b"\x7fELF", b"<html>", b"\0\0\0\x1cftypavif"),
    *(b"\0\0\0\x1cftypheic", b"\0\0\0\x18ftypmp42", b"version https://git-lfs", b'{"error":'),
    *(b"8BPS\0\1", b"II*\0\x10\0\0\0CR\2\0", b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI"),
)
_ODD_NAMES = (
    b"two words.jpg",
    b"-rf.jpg",
    b"--out.png",
    b"line\nbreak.jpg",
    b'tab\tquote"comma,.jpg',
    b"not utf-8 \xff\xfe.jpg",
    "right to left \u202e gpj.exe.jpg".encode(),
    "Blüte 花 🌸.jpg".encode(),
    b"a.jpg.png.jpg",
    b"%s%n$(reboot)`id`.jpg",
    b"x" * 247 + b".jpg",
    b"*.jpg",
)


@dataclass(frozen=True)
class Trial:
    """One run over good photos and hostile files."""

    options: tuple[str, ...]
    exit_code: int
    good_wrong: int  # whose mask differs from the one made of the photo alone
    good_missing: int
    hostile: int
    refused: int  # hostile files that are reported; of the others a picture could be made


def hostile_files(rgb: Rgb, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """308 names and contents, made from a photo (h, w, 3); the same ones for the same seed."""
    images = {suffix: encode_image(rgb, suffix) for suffix in FORMATS}
    rng = np.random.default_rng(seed)
    for suffix, image in images.items():
        steps = 100 if suffix == ".jpg" else 15
        for i in range(steps):
            yield f"cut {i:02}{suffix}".encode(), image[: len(image) * i // steps]
        for i in range(18):
            yield f"flipped {i:02}{suffix}".encode(), _flipped(image, rng)
        for other in FORMATS:
            if other != suffix:
                start = images[other][:8]
                yield f"starts as {other[1:]}{suffix}".encode(), start + image[8:]
    for i, start in enumerate(_OTHERS):
        yield f"other {i}.jpg".encode(), start + images[".jpg"][len(start) :]
    for i, content in enumerate(_bombs()):
        yield f"bomb {i}{FORMATS[i % len(FORMATS)]}".encode(), content
    for i, size in enumerate((0, 1, 2, 100, 5000, 10**6, 10**7)):
        yield f"zeros {i}{FORMATS[i % len(FORMATS)]}".encode(), bytes(size)
    for i, name in enumerate(_ODD_NAMES):
        yield name, images[".jpg"][: len(images[".jpg"]) * i // len(_ODD_NAMES)]


def write_hostile_files(folder: Path, rgb: Rgb, seed: int) -> int:
    """Write the files of `hostile_files` into a folder that exists; how many there are."""
    files = dict(hostile_files(rgb, seed))
    for name, content in files.items():
        (folder / os.fsdecode(name)).write_bytes(content)
    return len(files)


def measure_hostile(photos: Path, model: Path, seed: int, work: Path) -> Finding:
    """Segment good photos alone, then among hostile files, in this process and isolated."""
    listing = list_photos(photos, work)
    files = [listing.folder / path for path in listing.photos]
    folder = work / "photos"
    link_photos(files, 0, GOOD, folder)
    _run(folder, model, work / "alone", ())
    expected = _masks(work / "alone")
    hostile = write_hostile_files(folder, read_rgb(files[0]), seed)
    trials = [
        _trial(folder, model, work / "out", expected, hostile, options)
        for options in ((), ("--isolate", "30"))
    ]
    return finding_of(model, seed, trials)


def finding_of(model: Path, seed: int, trials: Sequence[Trial]) -> Finding:
    """How many good masks are wrong or missing, and whether any run crashed."""
    wrong = sum(trial.good_wrong + trial.good_missing for trial in trials)
    crashes = sum(trial.exit_code not in ENDED_WELL for trial in trials)
    rows = [
        (
            " ".join(trial.options) or "as a rule",
            f"{trial.hostile}",
            f"{trial.refused}",
            f"{trial.good_wrong}",
            f"{trial.good_missing}",
            f"{trial.exit_code}",
        )
        for trial in trials
    ]
    return Finding(
        headline=(
            f"Among {trials[0].hostile} hostile files, {wrong} masks of {GOOD} good photos are "
            f"wrong or missing, and {crashes} of {len(trials)} runs crash"
        ),
        table=table_of(
            "Hostile files",
            ("run", "hostile files", "refused", "good wrong", "good missing", "exit code"),
            rows,
        ),
        notes=(
            "Hostile files that are not refused decode to some picture: JPEG, WebP, TIFF and BMP "
            "have no checksum that would tell of a flipped bit",
        ),
        raw={
            "model": model.name,
            "sha256": sha256_of(model),
            "seed": seed,
            "trials": [vars(trial) for trial in trials],
        },
    )


def _trial(
    folder: Path,
    model: Path,
    out: Path,
    expected: dict[str, str],
    hostile: int,
    options: tuple[str, ...],
) -> Trial:
    code = _run(folder, model, out, options)
    found = _masks(out)
    shutil.rmtree(out)
    return Trial(
        options,
        code,
        sum(found.get(name, digest) != digest for name, digest in expected.items()),
        len(expected.keys() - found.keys()),
        hostile,
        hostile - len(found.keys() - expected.keys()),
    )


def _run(folder: Path, model: Path, out: Path, options: Sequence[str]) -> int:
    words = [sys.executable, "-m", "flowerseg", "predict", str(folder), "--model", str(model)]
    words += ["--out", str(out), "--device", "cpu", *options]
    return subprocess.run(words, capture_output=True, check=False).returncode


def _masks(out: Path) -> dict[str, str]:
    """SHA-256 of each mask by its path."""
    folder = out / "masks"
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*.png")}


def _flipped(image: bytes, rng: np.random.Generator) -> bytes:
    """One to three bits of it, the first ones among the first bytes more often than chance."""
    changed = bytearray(image)
    for _ in range(rng.integers(1, 4)):
        end = len(image) if rng.random() < 0.5 else min(400, len(image))
        changed[rng.integers(end)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _bombs() -> Iterator[bytes]:
    """One of each format, of 0.4 to 4 gigapixels, and a PNG whose chunk would be 4 GiB."""
    yield b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3\1\x11\0\2\x11\1\3\x11\1"
    side = 20_000
    rows = zlib.compress(bytes((1 + side // 8) * side))
    yield _png(struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), rows)
    yield b"RIFF\x16\0\0\0WEBPVP8X" + struct.pack("<IIHBHB", 10, 0, 0xFFFF, 0, 0xFFFF, 0)
    entries = struct.pack("<HHHIIHHII", 2, 256, 4, 1, 0xFFFF, 257, 4, 1, 0xFFFF)
    yield b"II*\0\x08\0\0\0" + entries
    yield b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 0xFFFF, -0xFFFF, 1, 24, *6 * [0])
    chunk = _png(struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), zlib.compress(bytes(200)))
    yield chunk.replace(chunk[33:37], b"\xff\xff\xff\xff", 1)


def _png(header: bytes, data: bytes) -> bytes:
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
