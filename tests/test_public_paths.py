"""Paths as text: every public function that takes a path takes it as `str` too."""

from pathlib import Path

import numpy as np

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
