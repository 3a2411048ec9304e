"""The page of a proof: its numbers are the proof's, and a single pixel that differs is seen."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest

from flowerseg.arrays import Labels, Mask, Rgb
from flowerseg.artifact import Artifact, Kind, Manifest, Parent, Precision
from flowerseg.caveats import Caveat, CaveatKind
from flowerseg.data import LabelledPhoto, PhotoSet
from flowerseg.folder import MASK_PALETTE
from flowerseg.images import decode_rgb, write_mask, write_png
from flowerseg.preprocess import Preprocess
from flowerseg.proof import Evidence, Expected, compare
from flowerseg.proof.compare import band_of
from flowerseg.proof.passes import Departure, Parity, Worst
from flowerseg.proof.pictures import Window, close_up_of, overview
from flowerseg.proof.report import report_path, write_due_report, write_report
from flowerseg.proofrecord import Fault, FaultKind, Limits, Proof

SIZE_HW = (100, 150)
COLOUR = (90, 120, 150)
DIMMED = (30, 40, 50)
RED, BLUE = (255, 60, 60), (60, 120, 255)
COMMAND = "flowerseg-verify a.onnx --reference a.pt --data flowers"


@pytest.fixture
def page(tmp_path: Path) -> str:
    return written(tmp_path, evidence())


def test_the_three_ious_stand_apart_with_their_limits(page: str) -> None:
    text = words(page)
    assert (
        "0.99123 agreement IoU, this file with PyTorch; the lower of photo by photo and as folders "
        "are run"
    ) in text
    assert "at least 0.98 0.97777 IoU against truth, PyTorch what there is to lose 0.97555" in text
    assert "0.97555 IoU against truth, this file may drop by 0.01" in text


def test_the_other_numbers_of_the_proof_are_there_too(page: str) -> None:
    text = words(page)
    assert "0.88321 agreement IoU within 2 pixels of outlines" in text
    assert "77 of 15000 pixels change sides" in text
    assert "0.441 largest difference of a probability" in text
    assert "ok pixels of one photo that change sides 0.02 %; by more than rounding explains" in text
    assert (
        "ok the same photo in a batch and alone 0.012 % of its pixels, probabilities by 0.062 at "
        "most 5 %, 1"
    ) in text


def test_each_way_to_run_the_file_and_each_batch_size_has_its_row(page: str) -> None:
    # Of 400 flower pixels of the reference 2 are missing, and 1 is too many: 398 / 401.
    assert "photo by photo 0.99252" in words(page)
    assert "as folders are run 1.00000 1.00000 0 – 0 %" in words(page)
    assert "3 leaf 0.02 %" in words(page)
    assert "8 2 0.012 % 0.062" in words(page)


def test_a_warning_about_the_labels_is_on_the_page(tmp_path: Path) -> None:
    doubted = evidence(caveats=(Caveat(CaveatKind.LABELS_CONTRADICTED, 1, iou=0.03),))
    text = words(written(tmp_path, doubted))
    assert "Warning: The reference itself scores IoU 0.0300 against these labels" in text
    assert "by agreement alone" not in text


def test_truth_without_a_score_is_na_and_only_agreement_is_called_proved(tmp_path: Path) -> None:
    caveats = (Caveat(CaveatKind.NO_LABELLED_PIXEL, 1),)
    unscored = evidence(model_iou=None, reference_iou=None, caveats=caveats)
    text = words(written(tmp_path, unscored))
    assert "a.onnx is proved by agreement alone" in text
    assert "n/a IoU against truth, PyTorch" in text
    assert "n/a IoU against truth, this file" in text
    assert "n/a IoU against truth n/a may drop by 0.01" in text
    assert "No pixel of the 1 photo is labelled" in text


def test_worst_photo_is_named_with_its_batch_and_agreement(page: str) -> None:
    assert "leaf batch 1; agreement IoU 0.99252; 3 pixels (0.02 %) change sides" in words(page)


def test_pixels_that_change_sides_are_seen_where_they_were_planted(page: str) -> None:
    photo, reference, mask, whole, close_up = pictures(page)
    assert colour(reference, 40, 60) == (255, 255, 255)
    assert colour(mask, 40, 60) == (0, 0, 0)
    assert photo.shape == whole.shape == (100, 150, 3)
    assert colour(whole, 40, 60) == colour(whole, 40, 61) == RED
    assert colour(whole, 37, 57) == RED  # drawn as seven by seven
    assert colour(whole, 20, 100) == BLUE
    assert colour(whole, 60, 20) == DIMMED
    # The close-up begins in row 10, column 56, and shows the three pixels and no more.
    assert colour(close_up, 30, 4) == colour(close_up, 30, 5) == RED
    assert colour(close_up, 10, 44) == BLUE
    assert ((close_up == RED).all(axis=2).sum(), (close_up == BLUE).all(axis=2).sum()) == (2, 1)


def test_one_pixel_of_twelve_million_is_seen() -> None:
    rgb = np.full((3000, 4000, 3), COLOUR, np.uint8)
    reference = np.zeros((3000, 4000), np.bool_)
    mask = reference.copy()
    mask[1500, 2000] = True
    window = close_up_of(mask, reference)
    shown = overview(rgb, mask, reference, window)
    assert shown.shape == (315, 420, 3)
    blue = np.argwhere((shown == BLUE).all(axis=2))
    # 1500 / 3000 of 315 rows is 157.5, 2000 / 4000 of 420 columns is 210; three more on each side.
    assert blue.min(axis=0).tolist() == [154, 207]
    assert blue.max(axis=0).tolist() == [160, 213]
    assert abs(window.top + 24 - 1500) <= 1
    assert abs(window.left + 24 - 2000) <= 1


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 7), (3, 500)])
def test_close_up_of_a_small_photo_is_no_larger_than_it(size_hw: tuple[int, int]) -> None:
    reference = np.zeros(size_hw, np.bool_)
    mask = reference.copy()
    mask[-1, -1] = True
    window = close_up_of(mask, reference)
    height, width = size_hw
    shown = min(48, width)
    assert (window.top, window.height, window.width) == (0, height, shown)
    assert window.left + shown == width  # at the edge, where the pixel is
    rgb = np.zeros((*size_hw, 3), np.uint8)
    assert colour(overview(rgb, mask, reference, window), -1, -1) == BLUE


def test_many_pixels_are_drawn_less_large_than_few() -> None:
    rgb = np.zeros((100, 100, 3), np.uint8)
    reference = np.zeros((100, 100), np.bool_)
    mask = reference.copy()
    mask[50, :] = True
    few = overview(rgb, mask, reference, Window(0, 0, 5, 5))
    mask[51, 50] = True
    many = overview(rgb, mask, reference, Window(0, 0, 5, 5))
    assert np.flatnonzero((few[:, 0] == BLUE).all(axis=1)).tolist() == list(range(47, 54))
    assert np.flatnonzero((many[:, 0] == BLUE).all(axis=1)).tolist() == [49, 50, 51]


def test_close_up_is_where_most_pixels_change_sides() -> None:
    reference = np.zeros((200, 300), np.bool_)
    mask = reference.copy()
    mask[10, 10] = True
    mask[150:153, 250] = True
    # Rows 150 to 152 are in windows from 105 to 150, column 250 in those from 203 to 250.
    assert close_up_of(mask, reference) == Window(127, 226, 48, 48)


def test_failed_proof_says_first_what_is_wrong(tmp_path: Path) -> None:
    fault = "agreement IoU 0.9912 at batch 1 is below 0.995 (worst photo: leaf)"
    found = Fault(FaultKind.AGREEMENT, 0.9912, 0.995, "leaf", (1,))
    text = words(written(tmp_path, evidence(status="failed", faults=(found,))))
    assert "a.onnx is not proved Do not deploy this file" in text
    assert text.index(fault) < text.index("agreement IoU, this file with PyTorch")
    assert (
        "FAILED agreement with PyTorch FP32 IoU 0.99123 photo by photo, 1.00000 as folders are "
        "run, 0.88321 along outlines at least 0.98"
    ) in text


def test_what_was_executed_and_what_emulated_is_said_apart(tmp_path: Path, page: str) -> None:
    assert (
        "Executed: this very file, photo by photo, in batches of 1, 8, and as folders are run "
        "(batch 8, 2 streams), by null on nothing. Emulated: nothing."
    ) in words(page)
    emulated = evidence(mode="emulated", emulated_agreement_iou=0.99876)
    text = words(written(tmp_path, emulated))
    assert "What was executed, and what emulated" in text
    assert "rounded to half: agreement IoU 0.99876." in text
    assert "Nothing here executed half on the hardware that it is for." in text


def test_page_without_differences_says_so(tmp_path: Path) -> None:
    same = evidence()
    same.parity.worst.clear()
    assert "Not one pixel of any photo changes sides." in words(written(tmp_path, same))


def test_the_page_needs_no_other_file_no_script_and_no_network(page: str) -> None:
    assert not re.search(r"https?:|<script|@import|url\(|<link", page)
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', page)
    assert len(sources) == 5
    assert all(source.startswith("data:image/") for source in sources)


def test_what_others_named_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    fault = Fault(FaultKind.OVERFLOW, detail=evil)
    page = written(tmp_path, evidence(status="failed", how=evil, data=evil, faults=(fault,)))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_command_and_hashes_are_on_the_page(page: str) -> None:
    text = words(page)
    assert text.endswith(COMMAND)
    assert "made from a.pt, " + "b" * 64 in text
    assert "a.onnx, onnx, int8, percentile" in text


def test_report_beside_a_model_is_due_when_it_failed_or_when_one_is_there(tmp_path: Path) -> None:
    model, photos = artifact(tmp_path), planted_photos(tmp_path)
    path = report_path(model.path)
    assert path == tmp_path / "a.onnx.proof.html"
    write_due_report(evidence(), model, photos, COMMAND)
    assert not path.exists()
    write_due_report(evidence(status="failed"), model, photos, COMMAND)
    assert "a.onnx is not proved" in words(path.read_text())
    write_due_report(evidence(), model, photos, COMMAND)
    assert "a.onnx is proved" in words(path.read_text())


def written(folder: Path, found: Evidence) -> str:
    path = folder / "page.html"
    write_report(path, found, artifact(folder), planted_photos(folder), COMMAND)
    return path.read_text()


def artifact(folder: Path) -> Artifact:
    manifest = Manifest(
        Kind.ONNX,
        "mobilenet",
        Precision.INT8,
        Preprocess((64, 64)),
        quantisation="percentile",
        sha256="a" * 64,
        parents=(Parent(Kind.CHECKPOINT, "a.pt", "b" * 64),),
    )
    return Artifact(folder / "a.onnx", manifest)


def planted_photos(folder: Path) -> PhotoSet:
    """One photo of a single colour."""
    photo, annotation = folder / "leaf.png", folder / "leaf_mask.png"
    write_png(photo, np.full((*SIZE_HW, 3), COLOUR, np.uint8))
    write_mask(annotation, reference_mask())
    return PhotoSet("one", (LabelledPhoto("leaf", photo, annotation, MASK_PALETTE),))


def reference_mask() -> Mask:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[30:50, 50:70] = True
    return mask


def spoilt_mask() -> Mask:
    """Two pixels of the flower are missing, one of the background is too many."""
    mask = reference_mask()
    mask[40, 60:62] = False
    mask[20, 100] = True
    return mask


def evidence(**proof: object) -> Evidence:
    """A photo that is wrong at batch 1 and right at batch 8; numbers that occur once each."""
    mask = reference_mask()
    foreground: Labels = np.zeros((64, 64), np.uint8)
    frame: Rgb = np.zeros((64, 64, 3), np.uint8)
    labels = mask.astype(np.uint8)
    expected = Expected("leaf", frame, labels, foreground, mask, band_of(mask))
    bad = compare(expected, foreground, spoilt_mask())
    good = compare(expected, foreground, mask)
    parity = Parity(
        alone=[bad],
        folder=[good],
        folder_batch=8,
        streams=2,
        batched=[
            Departure("leaf", 8, 1, 0.00012, 0.03),
            Departure("leaf", 8, 2, 0.0, 0.0625),
        ],
        worst=[Worst(bad, 1, spoilt_mask())],
    )
    fields = {
        "status": "proved",
        "how": "executed by null on nothing",
        "limits": Limits(0.98, 0.01, 0.05),
        "photos": 1,
        "data": "one",
        "batch_sizes": (1, 8),
        "agreement_iou": 0.99123,
        "model_iou": 0.97555,
        "reference_iou": 0.97777,
        "alone_agreement_iou": 0.99123,
        "folder_agreement_iou": 1.0,
        "band_iou": 0.88321,
        "flipped_pixels": 77,
        "pixels": 15000,
        "flipped_share": 0.0002,
        "batched_share": 0.00012,
        "batched_difference": 0.0625,
        "folder_batch": 8,
        "streams": 2,
        "largest_difference": 0.441,
    }
    return Evidence(Proof(**fields | proof), parity, [expected])  # type: ignore[arg-type]


def pictures(page: str) -> list[Rgb]:
    """The panels of the one photo."""
    urls = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    return [decode_rgb(base64.b64decode(url), "panel") for url in urls]


def colour(rgb: Rgb, row: int, column: int) -> tuple[int, ...]:
    return tuple(rgb[row, column].tolist())


def words(page: str) -> str:
    """What a reader sees, in single spaces."""
    body = page.partition("<main>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'").split()).replace(" .", ".")
