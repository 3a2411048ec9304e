"""Repair keeps what must stay in FP32, all of it and nothing else, and asks seldom."""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import combinations
from math import ceil, log2
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from flowerseg.artifact import Artifact, Kind, Precision, open_artifact
from flowerseg.checkpoint import save_checkpoint
from flowerseg.data import PhotoSet
from flowerseg.errors import ExportError
from flowerseg.model import FlowerNet, specialised
from flowerseg_export.cli import export
from flowerseg_export.config import ExportConfig, rebuild_command
from flowerseg_export.repair import Repaired, islands_of, least_islands, repair
from tests.loud import louder

LETTERS = "abcdefgh"


def _needing(required: str) -> Callable[[Sequence[str]], bool]:
    return lambda kept: set(required) <= set(kept)


@pytest.mark.parametrize("size", range(len(LETTERS) + 1))
def test_every_set_of_needed_modules_is_found_exactly(size: int) -> None:
    for required in combinations(LETTERS, size):
        assert least_islands(_needing("".join(required)), LETTERS) == list(required)


@given(st.lists(st.sets(st.sampled_from(LETTERS)), min_size=1, max_size=5))
@settings(deadline=None)
def test_no_module_of_the_result_can_be_spared(enough: list[set[str]]) -> None:
    """Where several sets would do, the one that is found need not be the smallest of them."""

    def passes(kept: Sequence[str]) -> bool:
        return any(one <= set(kept) for one in enough)

    found = least_islands(passes, LETTERS)
    smaller = [s for n in range(len(found)) for s in combinations(found, n)]
    assert passes(found)
    assert not any(passes(s) for s in smaller)
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("required", "calls"),
    # Of 64 modules: all and none, then six halvings and another look for each that is found;
    # after the very first module there is nothing left to look at.
    [([], 2), ([0], 8), ([63], 9), ([31], 9), ([5, 40], 16), ([1, 20, 62], 23)],
)
def test_questions_are_few(required: list[int], calls: int) -> None:
    modules = [f"m{n:02}" for n in range(64)]
    asked: list[Sequence[str]] = []

    def passes(kept: Sequence[str]) -> bool:
        asked.append(kept)
        return {modules[n] for n in required} <= set(kept)

    assert least_islands(passes, modules) == [modules[n] for n in required]
    assert len(asked) <= calls <= 2 + len(required) * (1 + ceil(log2(64)))


def test_network_that_fails_in_fp32_too_is_refused() -> None:
    with pytest.raises(ValueError, match="not even with all modules in FP32"):
        least_islands(lambda _: False, LETTERS)


def test_modules_with_weights_are_kept_one_by_one_in_their_order(small_network: FlowerNet) -> None:
    special = specialised(small_network, (64, 64))
    modules = islands_of(special, without={"classifier.4"})
    assert modules[:2] == ["backbone.0.0", "backbone.1.block.0.0"]  # each with its BatchNorm
    assert modules[-2:] == ["classifier.0.project.0", "classifier.1"]
    assert "backbone.4.block.2.fc1" in modules


@pytest.fixture(scope="module")
def photos(val_photos: PhotoSet) -> PhotoSet:
    return val_photos.limited(2)


@pytest.fixture
def loud(small_network: FlowerNet, reference: Artifact, tmp_path: Path) -> Artifact:
    """A checkpoint that computes the same function, in which two ReLUs give values beyond half."""
    network = louder(small_network, "backbone.3.block.0", "classifier.0.convs.2")
    return save_checkpoint(tmp_path / "loud.pt", network, reference.manifest)


BACKBONE = ("backbone.3.block.0.0", "backbone.3.block.1.0")
ASPP = ("classifier.0.convs.2.0", "classifier.0.project.0")


@pytest.mark.slow
def test_two_overflows_are_repaired_by_four_modules_and_the_export_is_proved(
    loud: Artifact, painted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "loud.onnx"
    words = [str(loud.path), "--fp16", "--repair", "--data", str(painted), "--limit", "2"]
    result = CliRunner().invoke(export, [*words, "--device", "cpu", "--out", str(out)])
    assert result.exit_code == 0, result.output
    # What overflows is kept, and what reads it.
    kept = (*BACKBONE, *ASPP)
    assert f"repair: in FP32 stay {', '.join(kept)} (+" in result.stdout
    assert "milliseconds cannot be measured here" in result.stdout
    manifest = open_artifact(out).manifest
    assert manifest.keep_fp32 == kept
    assert manifest.proof is not None
    assert manifest.proof.status == "proved"
    assert f"--keep-fp32 {kept[0]} --keep-fp32 {kept[1]}" in manifest.rebuild
    assert "--repair" not in manifest.rebuild


@pytest.mark.slow
def test_network_that_passes_in_half_needs_no_repair(reference: Artifact, photos: PhotoSet) -> None:
    found = repair(reference, photos, device="cpu")
    assert found.keep_fp32 == ()
    assert found.half_bytes == found.mixed_bytes
    assert str(found) == "repair: nothing to do, all modules pass in half"


@pytest.mark.slow
def test_what_is_kept_anyway_is_not_searched_for_and_weights_cost_two_bytes_each(
    loud: Artifact, photos: PhotoSet
) -> None:
    found = repair(loud, photos, keep_fp32=["classifier.0"], device="cpu")
    assert found.keep_fp32 == ("classifier.0", *BACKBONE)
    assert found.half_ms is None
    # backbone.3: 24 x 72 weights and 72 biases, then 72 x 9 and 72. classifier.0: weights of 4
    # branches (one of 9 taps) and pooling, and of the projection, and 6 x 256 biases.
    weights = 24 * 72 + 72 + 72 * 9 + 72 + 256 * 960 * 5 + 5 * 256 * 256 + 6 * 256
    assert found.mixed_bytes - found.half_bytes == pytest.approx(2 * weights, rel=0.01)


def test_misspelt_module_is_an_error(reference: Artifact, photos: PhotoSet) -> None:
    with pytest.raises(ExportError, match="'layer9' matches no module"):
        repair(reference, photos, keep_fp32=["layer9"], device="cpu")


def test_cost_says_names_bytes_and_milliseconds() -> None:
    found = Repaired(("a", "b"), 1_000_000, 1_250_000, 2.0, 2.25)
    assert str(found) == (
        "repair: in FP32 stay a, b (+250,000 bytes on 1,000,000; "
        "+0.250 ms on 2.000 for a batch of 8)"
    )


@pytest.mark.gpu
def test_cost_in_milliseconds_is_measured_where_half_is_executed(
    reference: Artifact, photos: PhotoSet
) -> None:
    found = repair(reference, photos, keep_fp32=["backbone.0"], device="cuda")
    assert found.half_ms is not None
    assert found.mixed_ms is not None
    assert 0 < found.half_ms < 1000


@pytest.mark.parametrize(
    "change",
    [{"precision": Precision.FP32}, {"data": None}, {"target": Kind.CHECKPOINT}],
)
def test_repair_of_what_it_cannot_repair_is_wrong_usage(change: dict[str, object]) -> None:
    config = ExportConfig(
        Path("a.pt"), Path("a.onnx"), precision=Precision.FP16, data=Path("d"), repair=True
    )
    assert "--repair" not in rebuild_command(config)
    with pytest.raises(ValueError, match="--repair"):
        dataclasses.replace(config, **change)  # type: ignore[arg-type]


def test_repair_without_photos_exits_with_2() -> None:
    result = CliRunner().invoke(export, ["a.pt", "--fp16", "--repair", "--out", "a.onnx"])
    assert result.exit_code == 2
    assert "give --fp16 and --data" in result.output
