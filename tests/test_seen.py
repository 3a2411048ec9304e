"""Photos that a network learned from are recognised, their copies too, and no others."""

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flowerseg.arrays import Rgb
from flowerseg.artifact import Artifact, Data, manifest_path, open_artifact, rewrite_manifest
from flowerseg.data import PhotoSet, open_photos
from flowerseg.errors import ArtifactError
from flowerseg.evaluate import seen_caveats, signatures_of
from flowerseg.paint import paint_photo
from flowerseg.seen import NO_PHOTOS, TrainingPhotos, count_seen, signature_of, training_photos
from flowerseg.train.learned import main

PAINTED = [paint_photo((120, 160), seed).rgb for seed in range(12)]


def test_a_signature_is_nine_means_of_each_channel() -> None:
    rgb = np.zeros((6, 9, 3), np.uint8)
    rgb[:2, :3] = 30, 60, 90
    rgb[4:, 6:] = 255
    nine = np.frombuffer(signature_of(rgb), np.uint8).reshape(3, 3, 3)
    assert nine[0, 0].tolist() == [30, 60, 90]
    assert nine[2, 2].tolist() == [255, 255, 255]
    assert nine.sum() == 30 + 60 + 90 + 3 * 255


def _squashed_jpeg(rgb: Rgb) -> Rgb:
    """A copy of 100 x 100 in a JPEG of low quality, made by Pillow."""
    file = BytesIO()
    Image.fromarray(rgb).resize((100, 100), Image.Resampling.BICUBIC).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def test_a_large_photo_has_the_signature_of_its_small_copy() -> None:
    large = paint_photo((900, 1300), 3).rgb
    known = training_photos([signature_of(large)], NO_PHOTOS)
    assert count_seen(known, [signature_of(_squashed_jpeg(large))]) == 1


def test_copies_are_recognised_and_other_photos_are_not() -> None:
    known = training_photos((signature_of(rgb) for rgb in PAINTED[:8]), NO_PHOTOS)
    copies = [signature_of(_squashed_jpeg(rgb)) for rgb in PAINTED]
    assert count_seen(known, copies) == 8
    assert count_seen(known, copies[8:]) == 0
    assert count_seen(known, []) == count_seen(NO_PHOTOS, copies) == 0


def test_photos_of_the_starting_weights_are_inherited() -> None:
    one, two, three = (signature_of(rgb) for rgb in PAINTED[:3])
    grandparent = training_photos([one], NO_PHOTOS)
    parent = training_photos([two], grandparent)
    child = training_photos([three, two], parent)
    assert count_seen(child, [one, two, three]) == 3
    assert len(base64.b64decode(child.signatures)) == 3 * 27
    assert child.is_complete


def test_unknown_starting_weights_stay_unknown_down_the_chain() -> None:
    parent = training_photos([signature_of(PAINTED[0])], None)
    assert not training_photos([signature_of(PAINTED[1])], parent).is_complete


def _data(photos: PhotoSet, seen: TrainingPhotos | None) -> Data:
    return Data("flowers", photos.fingerprint, len(photos), 1, 0.9, seen=seen)


def test_what_is_said_of_photos_that_a_model_saw(painted: Path, val_photos: PhotoSet) -> None:
    train = open_photos(painted, "train")
    own, others = signatures_of(val_photos), signatures_of(train)
    on_all = training_photos([*own, *others], NO_PHOTOS)
    on_others = training_photos(others, NO_PHOTOS)

    def said(data: Data | None) -> list[tuple[str, int]]:
        return [(c.kind, c.seen) for c in seen_caveats(data, val_photos, own)]

    assert said(_data(train, on_all)) == [("photos-seen-in-training", len(val_photos))]
    assert said(_data(train, on_others)) == []
    assert said(_data(train, None)) == said(None) == [("training-photos-unknown", 0)]
    # An older manifest has only the fingerprint.
    assert said(_data(val_photos, None)) == [("photos-seen-in-training", len(val_photos))]


@pytest.mark.parametrize("signatures", ["AAAA", "no base64", "A"])
def test_signatures_that_are_damaged_make_the_manifest_unreadable(
    reference: Artifact, copied: Callable[[Path], Path], painted: Path, signatures: str
) -> None:
    model = copied(reference.path)
    whole = TrainingPhotos("AAAA" * 9)
    rewrite_manifest(open_artifact(model), data=_data(open_photos(painted, "val"), whole))
    path = manifest_path(model)
    path.write_text(path.read_text().replace("AAAA" * 9, signatures))
    with pytest.raises(ArtifactError, match="wrong field in the manifest"):
        open_artifact(model)


def test_photos_are_recorded_in_the_manifest_of_an_older_model(
    reference: Artifact, copied: Callable[[Path], Path], painted: Path
) -> None:
    model = copied(reference.path)
    train = open_photos(painted, "train")
    rewrite_manifest(open_artifact(model), data=_data(train, None))
    content = model.read_bytes()
    words = [str(model), "--data", str(painted), "--weights", "none"]
    refused = CliRunner().invoke(main, [*words, "--split", "val"])
    assert refused.exit_code == 1
    assert "does not name these photos (flowers/val1" in refused.stderr
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    data = open_artifact(model).manifest.data
    assert data is not None
    assert data.seen == training_photos(signatures_of(train), NO_PHOTOS)
    assert model.read_bytes() == content


@pytest.mark.parametrize("rgb", [np.zeros((1, 1, 3), np.uint8), np.full((1, 500, 3), 9, np.uint8)])
def test_the_smallest_photos_have_a_signature_too(rgb: Rgb) -> None:
    assert signature_of(rgb) == rgb[0, 0].tobytes() * 9
