"""Paths as text: every public function that takes a path takes it as `str` too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowerseg.artifact import Artifact, Kind, Precision, open_artifact
from flowerseg.backends.null import NullBackend
from flowerseg.data import open_photos
from flowerseg.images import read_mask_colours, read_rgb, write_jpeg, write_png
from flowerseg.predict import check_folder, segment_folder, stream
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg.train import TrainConfig
from flowerseg_export.config import ExportConfig

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_photos_and_folders_may_be_text(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "photos/a.jpg", RGB)
    photo, folder, out = (str(tmp_path / name) for name in ("photos/a.jpg", "photos", "out"))
    assert read_rgb(photo).shape == RGB.shape
    with Segmenter(NullBackend((32, 32)), Preprocess((32, 32))) as segmenter:
        assert segment_folder(folder, segmenter, out).run.counts.ok == 1
        (item,) = stream([photo], segmenter)
    assert item.photo == Path(photo)
    assert check_folder(out, print).rows == 1


def test_labelled_photos_may_lie_in_a_folder_given_as_text(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_jpeg(tmp_path / f"photos/{name}.jpg", RGB)
        write_png(tmp_path / f"masks/{name}.png", np.zeros((20, 30), np.uint8))
    assert len(open_photos(str(tmp_path), "train")) == 1
    assert read_mask_colours(str(tmp_path / "masks/a.png")).shape == (20, 30, 3)


def test_model_files_and_settings_may_be_text(reference: Artifact) -> None:
    path = str(reference.path)
    assert open_artifact(path).path == Path(path)
    Segmenter.open(path, device="cpu").close()
    export = ExportConfig(path, "a.onnx", Kind.ONNX, Precision.FP32, data="photos")
    assert (export.source, export.out, export.data) == (Path(path), Path("a.onnx"), Path("photos"))
    training = TrainConfig("photos", "run")
    assert (training.data, training.out) == (Path("photos"), Path("run"))


@pytest.mark.parametrize("wrong", ["", "a\0b", None, 3, RGB, b""])
def test_what_is_no_path_is_refused_in_one_sentence(wrong: object, tmp_path: Path) -> None:
    calls: list[Callable[[Any], object]] = [
        read_rgb,
        open_artifact,
        check_folder_quietly,
        lambda path: open_photos(path, "train"),
        lambda path: segment_folder(path, segmenter, tmp_path / "out"),
        lambda path: segment_folder(tmp_path, segmenter, path),
    ]
    with Segmenter(NullBackend((32, 32)), Preprocess((32, 32))) as segmenter:
        for call in calls:
            with pytest.raises((TypeError, ValueError), match=r"^\w+ must be a path, not .*$"):
                call(wrong)


def check_folder_quietly(out: Any) -> None:
    check_folder(out, lambda _: None)


@pytest.mark.parametrize("wrong", [None, "model.onnx", RGB])
def test_what_is_no_segmenter_is_refused_in_one_sentence(wrong: Any, tmp_path: Path) -> None:
    for call in (
        lambda: stream([RGB], wrong),
        lambda: segment_folder(tmp_path, wrong, tmp_path / "out"),
    ):
        with pytest.raises(TypeError, match=r"^segmenter must be an open Segmenter, not"):
            call()
