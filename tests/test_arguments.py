"""Arguments and options that no model can be opened or run with."""

from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from flowerseg.backends import SessionOptions
from flowerseg.backends.null import NullBackend
from flowerseg.cli.options import FiniteRange, device_option
from flowerseg.predict import PredictSettings, segment_folder, stream
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ({"threshold": "0.5"}, TypeError, "threshold must be a number between 0 and 1, not '0.5'"),
        ({"threshold": True}, TypeError, "threshold must be a number"),
        ({"threshold": float("nan")}, ValueError, "between 0 and 1, not nan"),
        ({"threshold": 0}, ValueError, "between 0 and 1, not 0"),
        ({"threshold": 50}, ValueError, "between 0 and 1, not 50"),
        ({"device": None}, TypeError, "device must be text"),
        ({"device": torch.device("cpu")}, TypeError, "device must be text"),
        ({"device": "gpu"}, ValueError, "auto, cpu, cuda or cuda:N, not 'gpu'"),
        ({"device": "cuda:\u00b2"}, ValueError, "auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:"}, ValueError, "auto, cpu, cuda or cuda:N"),
        ({"runtime": "onnx"}, ValueError, "runtime must be auto or one of pytorch, .*, not 'onnx'"),
        ({"runtime": None}, TypeError, "runtime must be text"),
        ({"options": 2}, TypeError, "options must be SessionOptions, not 2"),
    ],
)
def test_wrong_argument_of_open_is_named(
    checkpoint: Path, arguments: dict[str, object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        Segmenter.open(checkpoint, **arguments)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("name", ["batch", "workers", "processes", "max_pixels"])
def test_counts_are_whole_numbers_from_one(name: str) -> None:
    for value in ("8", 2.0, True):
        with pytest.raises(TypeError, match=f"{name} must be a whole number, not {value!r}"):
            PredictSettings(**{name: value})  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, not 0"):
        PredictSettings(**{name: 0})  # type: ignore[arg-type]  # mypy takes it for any field


def test_streams_and_threads_are_whole_numbers() -> None:
    with pytest.raises(TypeError, match="streams must be a whole number, not '2'"):
        SessionOptions(streams="2")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="threads must be 1 or more, not 0"):
        SessionOptions(threads=0)


def test_closed_segmenter_segments_no_folder_and_no_stream(tmp_path: Path) -> None:
    segmenter = Segmenter(NullBackend((64, 64)), Preprocess((64, 64)))
    segmenter.close()
    with pytest.raises(ValueError, match="this Segmenter is closed"):
        stream([tmp_path], segmenter)
    with pytest.raises(ValueError, match="this Segmenter is closed"):
        segment_folder(tmp_path, segmenter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@click.command()
@click.option("--share", type=FiniteRange(0, min_open=True))
@device_option
def _command(share: float, device: str) -> None:
    click.echo(f"{share} {device}")


@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "1e999"])
def test_option_that_is_not_a_finite_number_is_refused(value: str) -> None:
    result = CliRunner().invoke(_command, ["--share", value])
    assert result.exit_code == 2
    assert "is not a finite number" in result.stderr


@pytest.mark.parametrize("value", ["cuda:\u00b2", "cuda:", "cpu:", "auto:0", "gpu", ""])
def test_option_that_names_no_device_is_refused(value: str) -> None:
    result = CliRunner().invoke(_command, ["--device", value])
    assert result.exit_code == 2
    assert "is not auto, cpu, cuda or cuda:N" in result.stderr
