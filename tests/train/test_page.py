"""The page of a training run: what it says, of what it warns, and that it needs nothing else."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from flowerseg.arrays import FLOWER
from flowerseg.cli.predict import predict
from flowerseg.errors import TrainingError
from flowerseg.images import write_jpeg, write_png
from flowerseg.pictures import panel, stacked
from flowerseg.train.page import class_rows, next_steps, write_report
from flowerseg_export.cli import export


def test_the_page_says_how_good_and_on_what(tmp_path: Path) -> None:
    page = page_of(tmp_path, report())
    assert "<b>0.9172</b>" in page
    assert "<b>0.9059</b>" in page
    text = words(page)
    assert "flower IoU on 221 photos of flowers17/val1 validation (chose the checkpoint)" in text
    assert "flower IoU on 219 photos of flowers17/tst1 test (never looked at)" in text
    assert "Being chosen by these photos flatters their score a little." in text
    assert "Nothing was chosen by flowers17/tst1: quote 0.9059 (0.0113 lower)." in text


def test_the_page_says_how_to_do_it_again_and_what_is_next(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, report()))
    assert "flowerseg-train --data flowers17 --seed 0" in text
    assert "flowerseg-export runs/a/best.pt --fp16 --data flowers17 --split val" in text
    assert "train: 431 photos; flower 28.1 %" in text
    assert "preprocess.size_hw 224, 224" in text
    assert "torch 2.15.0" in text
    assert "AMD EPYC" in text


def test_the_next_commands_are_ones_that_the_programs_take() -> None:
    found = report()
    found["checkpoint"] = "my runs/a/best.pt"
    found["config"]["data"] = "my flowers"
    exporting, predicting = next_steps(found)
    taken = parsed(export, exporting)
    assert taken["source"] == Path("my runs/a/best.pt")
    assert taken["data"] == Path("my flowers")
    assert taken["out"] == Path("my runs/a/fp16.onnx")
    assert str(taken["out"]) in shlex.split(predicting)
    parsed(predict, predicting)


def test_a_faulty_run_says_so_first_and_offers_nothing_to_deploy(tmp_path: Path) -> None:
    found = report()
    found["faults"] = ["void is taught as background"]
    page = page_of(tmp_path, found)
    text = words(page)
    assert text.index("Not a sound run") < text.index("void is taught") < text.index("0.9172")
    assert "<title>Faulty on purpose" in page
    assert "flowerseg-export" not in page
    assert "quote" not in text


def test_a_sound_run_has_no_banner(tmp_path: Path) -> None:
    page = page_of(tmp_path, report())
    assert "sound run" not in page
    assert 'role="alert"' not in page


def test_what_others_named_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    found = report()
    split = found["splits"][0]
    split["name"] = f"{evil}/val1"
    split["role"] = split["worst"][0][0] = found["device"] = found["command"] = evil
    split["by_class"][evil] = scores(1, 0.5)
    found["config"]["data"] = found["versions"]["torch"] = found["checkpoint"] = evil
    found["faults"] = found["check_text"] = [evil]
    page = page_of(tmp_path, found)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_page_needs_no_other_file_no_script_and_no_network(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    page = page_of(tmp_path, report())
    assert "http" not in page
    assert "<script" not in page
    assert "@import" not in page
    sources = re.findall(r'(?:src|href|srcset)="([^"]{0,22})', page)
    assert len(sources) == 1 + 4 * 2 + 2 * 2  # curves, four epochs, two splits of two photos
    assert all(source.startswith("data:image/") for source in sources)
    assert "url(" not in page


def test_first_middle_and_best_epoch_are_seen_and_the_others_unfold(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    page = page_of(tmp_path, report())
    seen, unfolded = page.split("more epochs, smaller")
    places = [seen.index(f"<h3>Epoch {epoch}") for epoch in ("15, the checkpoint", "5", "10")]
    assert places == sorted(places)
    assert "<h3>Epoch 20</h3>" in unfolded


def test_worst_photos_stand_beside_their_names(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    page = page_of(tmp_path, report())
    assert 'alt="image_0143, flowers17/val1: photo, truth, mask, overlay, errors"' in page
    assert "image_0143 0.114" in words(page)


def test_names_are_never_beside_photos_of_others(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    found = report()
    found["splits"][0]["worst"].append(["image_0999", 0.5])  # three names, two photos
    page = page_of(tmp_path, found)
    assert 'alt="image_0143' not in page
    assert "image_0143 0.114, image_0144 0.224, image_0999 0.500" in words(page)


def test_a_page_without_pictures_classes_test_split_or_second_epoch(tmp_path: Path) -> None:
    found = report()
    found["splits"] = found["splits"][:1]
    found["splits"][0] |= {"by_class": {}, "worst": []}
    found["epochs"] = found["epochs"][14:15]
    found["check_text"] = []
    page = page_of(tmp_path, found)
    text = words(page)
    assert "<img" not in page
    for absent in ("Classes", "Curves", "worst photos", "How it learned", "data, checked"):
        assert absent not in text
    assert "1 epoch " in text
    assert "the only one that was validated" in text
    assert "flatters" not in text  # nothing was chosen


def test_without_a_test_split_the_score_is_called_flattered(tmp_path: Path) -> None:
    found = report()
    found["splits"] = found["splits"][:1]
    text = words(page_of(tmp_path, found))
    assert "no test photos were held back" in text
    assert "quote" not in text


def test_epochs_without_validation_have_dashes_for_scores(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, report()))
    assert re.search(r" 15 0\.0005 0\.0667 0\.9172 ", text)
    assert re.search(r" 4 0\.0005 0\.2500 – – – – – ", text)


def test_classes_are_ranked_by_the_first_split_and_none_is_lost() -> None:
    first = {"by_class": {"daisy": scores(4, 0.9), "iris": scores(4, 0.7)}}
    second = {"by_class": {"daisy": scores(4, 0.2), "tulip": scores(4, 0.1)}}
    rows = class_rows([first, second])
    assert [name for name, _ in rows] == ["iris", "daisy", "tulip"]
    assert [found and found["iou"] for found in rows[1][1]] == [0.9, 0.2]
    assert [found is None for found in rows[2][1]] == [True, False]


def test_a_class_has_a_bar_as_long_as_its_iou(tmp_path: Path) -> None:
    page = page_of(tmp_path, report())
    assert '0.8123<span class="bar"><i style="width: 81.2%">' in page


def test_scores_that_are_not_defined_read_na(tmp_path: Path) -> None:
    found = report()
    found["splits"][1]["scores"] |= {"iou": None, "mean_iou": None, "dice": None}
    found["splits"][0]["by_class"]["empty"] = scores(1, 0.5) | {"iou": None, "mean_iou": None}
    text = words(page_of(tmp_path, found))
    assert "n/a flower IoU on 219 photos of flowers17/tst1" in text
    assert "flowers17/tst1 219 n/a n/a n/a 0.9700 0.8000" in text
    assert "quote" not in text
    assert "daisy 0.9512" in text
    assert "empty n/a n/a 1" in text


def test_a_score_to_doubt_is_said_first(tmp_path: Path) -> None:
    found = report()
    seen = {"kind": "photos-seen-in-training", "photos": 219, "seen": 12}
    found["splits"][1]["caveats"] = [seen]
    text = words(page_of(tmp_path, found))
    sentence = "flowers17/tst1: 12 of these 219 photos were in the training set of the weights"
    assert text.index(sentence) < text.index("0.9172")
    assert "quote" not in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no report\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def page_of(folder: Path, found: dict[str, Any]) -> str:
    (folder / "report.json").write_text(json.dumps(found))
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def words(page: str) -> str:
    """What a person reads: no tags, one space between words."""
    body = page[page.index("<body>") :]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split()).replace(" )", ")")


def parsed(command: click.Command, line: str) -> dict[str, Any]:
    """The options as the program would read them; nothing is run."""
    return command.make_context("test", shlex.split(line)[1:]).params


def write_pictures(folder: Path) -> None:
    """Curves, panels of every fifth epoch and the worst of both splits, two photos in each."""
    rgb = np.full((20, 30, 3), 90, np.uint8)
    labels = np.full((20, 30), FLOWER, np.uint8)
    stack = stacked([panel(rgb, labels, labels == FLOWER)] * 2)
    write_png(folder / "curves.png", rgb)
    for name in ("epoch_005", "epoch_010", "epoch_015", "epoch_020", "worst_val1", "worst_tst1"):
        write_jpeg(folder / "panels" / f"{name}.jpg", stack)


def scores(photos: int, iou: float) -> dict[str, float]:
    return {
        "photos": photos,
        "iou": iou,
        "mean_iou": iou - 0.01,
        "dice": 2 * iou / (1 + iou),
        "pixel_accuracy": 0.97,
        "notebook_score": 0.8,
    }


def report() -> dict[str, Any]:
    """report.json of twenty epochs, of which every fifth was validated and the third was best."""
    by_class = {"daisy": scores(13, 0.9512), "iris": scores(9, 0.8123)}
    ious = {5: 0.6, 10: 0.8, 15: 0.9172, 20: 0.91}
    return {
        "checkpoint": "runs/a/best.pt",
        "checkpoint_sha256": "3f" * 32,
        "best_epoch": 15,
        "splits": [
            {
                "name": "flowers17/val1",
                "role": "validation (chose the checkpoint)",
                "scores": scores(221, 0.9172),
                "by_class": by_class,
                "worst": [["image_0143", 0.114], ["image_0144", 0.224]],
            },
            {
                "name": "flowers17/tst1",
                "role": "test (never looked at)",
                "scores": scores(219, 0.9059),
                "by_class": dict(by_class),
                "worst": [["image_0200", 0.3], ["image_0201", 0.4]],
            },
        ],
        "check": {},
        "check_text": ["train: 431 photos; flower 28.1 %"],
        "faults": [],
        "epochs": [
            {
                "epoch": epoch,
                "lr": 5e-4,
                "train_loss": 1 / epoch,
                "scores": scores(221, ious[epoch]) if epoch in ious else None,
            }
            for epoch in range(1, 21)
        ],
        "train_photos": 431,
        "data_fingerprint": "9c" * 32,
        "device": "AMD EPYC",
        "amp": "bf16",
        "processes": 1,
        "command": "flowerseg-train --data flowers17 --seed 0",
        "config": {
            "data": "flowers17",
            "out": "runs/a",
            "architecture": "deeplabv3_mobilenet_v3_large",
            "val_split": "val",
            "test_split": None,
            "preprocess": {"size_hw": [224, 224], "fit": "stretch"},
            "force": False,
        },
        "versions": {"torch": "2.15.0"},
    }
