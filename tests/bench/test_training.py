"""The measurements about training, on painted photos; the real ones are made by hand."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from flowerseg.cli.train import train
from flowerseg.labelled import LabelledPhoto, PhotoSet
from flowerseg.model import FlowerNet
from flowerseg.oxford import OXFORD_PALETTE
from flowerseg.train import Fault
from flowerseg_bench.memory import PeakMemory
from flowerseg_bench.record import IDLE_LOAD, Record, json_of, markdown_of, recorded
from flowerseg_bench.training import cache, command, corrections, memory, start, waiting
from flowerseg_bench.training.cli import main
from flowerseg_bench.training.command import Setup, Trained
from flowerseg_bench.training.waiting import EpochTime

SMALL = "deeplabv3_mobilenet_v3_large"


class FakeClock:
    """Stands still until someone winds it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def setup(painted: Path) -> Setup:
    return Setup(painted, SMALL, None, 1, 4, 64, "train", "val", "cpu")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The training command without a process for each run; the words of every run."""
    calls: list[list[str]] = []

    def run(arguments: Sequence[str], work: Path, *_: object) -> None:
        calls.append(list(arguments))
        monkeypatch.setenv("XDG_CACHE_HOME", str(work / "cache"))
        result = CliRunner().invoke(train, list(arguments[1:]))
        assert result.exit_code == 0, result.output

    monkeypatch.setattr(command, "run_process", run)
    return calls


def trained(wall_s: float, val_iou: float, test_iou: float = 0.0) -> Trained:
    splits = [{"scores": {"iou": iou}} for iou in (val_iou, test_iou)]
    return Trained("run", "flowerseg train", wall_s, {"splits": splits})


def invoke(name: str, data: Path, out: Path, *more: str) -> Result:
    shared = ["--data", str(data), "--arch", SMALL, "--size", "64", "--batch-size", "4"]
    words = [name, *shared, "--device", "cpu", "--out", str(out), *more]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["RESULT.json", "RESULT.md"]
    return result


# --- cache ---


def test_times_faster_and_differences_are_against_the_run_without_a_cache(setup: Setup) -> None:
    runs = [trained(50.0, 0.75), trained(200.0, 0.5), trained(10.0, 0.1)]

    finding = cache.finding_of(setup, runs)

    assert finding.raw["times_faster_empty_cache"] == 4.0  # 200 / 50
    assert finding.raw["times_faster_filled_cache"] == 20.0  # 200 / 10
    assert finding.raw["iou_difference"] == 0.25
    assert [row[1:3] for row in finding.table.rows] == [
        ("200.0", "1"),
        ("50.0", "4.00"),
        ("10.0", "20.00"),
    ]


def test_random_weights_are_said_to_be_random(setup: Setup) -> None:
    runs = [trained(1.0, 0.5)] * 3
    given = dataclasses.replace(setup, weights="coco")

    assert start.RANDOM_NOTE in cache.finding_of(setup, runs).notes
    assert start.RANDOM_NOTE not in cache.finding_of(given, runs).notes


@pytest.mark.slow
def test_the_cache_is_measured_from_empty_by_the_real_command(
    painted: Path, tmp_path: Path, in_process: list[list[str]]
) -> None:
    result = invoke("cache", painted, tmp_path / "out", "--epochs", "1")

    content = json.loads((tmp_path / "out" / "RESULT.json").read_text())
    assert abs(content["iou_difference"]) < 0.02  # features are kept in half precision
    assert all(run["wall_s"] > 0 for run in content["runs"])
    assert ["--no-cache" in words for words in in_process] == [False, True, False]
    assert str(tmp_path) not in content["runs"][0]["command"].replace(str(painted), "")
    assert "times faster" in result.stdout
    assert "random" in (tmp_path / "out" / "RESULT.md").read_text()


# --- weights to start from ---


def test_calibrated_features_are_in_range_and_tell_photos_apart(setup: Setup) -> None:
    network = start.calibrated_network(setup)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=seeded())
    with torch.no_grad():
        features = network.features(images)

    assert torch.isfinite(features.half()).all()
    assert features.std() > 0.1
    assert (features[0] - features[1]).abs().mean() > 0.01


def test_calibrated_weights_depend_on_the_seed_and_on_nothing_else(setup: Setup) -> None:
    torch.manual_seed(1)
    one = start.calibrated_network(setup).state_dict()
    torch.manual_seed(2)
    two = start.calibrated_network(setup).state_dict()

    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_heads_own_weights_are_left_out_and_no_others(
    checkpoint: Path, small_network: FlowerNet, tmp_path: Path
) -> None:
    path = start.without_head(str(checkpoint), tmp_path / "weights.pt")

    kept = torch.load(path, weights_only=True)
    missing = small_network.state_dict().keys() - kept.keys()
    assert missing == {"classifier.4.weight", "classifier.4.bias"}
    assert start.without_head("coco", tmp_path / "unused.pt") == "coco"


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- memory ---


def test_memory_is_stated_in_gib_of_the_whole_tree(setup: Setup) -> None:
    peak = {"Pss": 3 * 2**30, "Pss_Anon": 2 * 2**30, "Pss_File": 2**30}
    found = PeakMemory(samples=[2**30, 3 * 2**30], peak=peak, peak_processes=2, main_rss=5 * 2**29)

    finding = memory.finding_of(setup, trained(1.0, 0.5), found)

    assert [row[1] for row in finding.table.rows] == ["3.00", "2.00", "1.00", "2.50"]
    assert "3.00 GiB" in finding.headline


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_memory_of_the_real_command_with_its_workers_is_watched(
    painted: Path, tmp_path: Path
) -> None:
    invoke("memory", painted, tmp_path / "out", "--epochs", "1")

    content = json.loads((tmp_path / "out" / "RESULT.json").read_text())
    # An interpreter with torch in it takes some 200 MiB at least.
    assert content["peak_pss_bytes"] > 150 * 2**20
    assert content["main_highest_rss_bytes"] > 150 * 2**20
    assert max(content["samples_pss_bytes"]) == content["peak_pss_bytes"]


# --- waiting ---


def test_each_wait_is_timed_and_the_work_between_them_is_not() -> None:
    clock = FakeClock()
    waits_s: list[float] = []

    class Slow:
        def __iter__(self) -> Iterator[int]:
            clock.now_s += 8.0  # such as starting workers
            return self._items()

        def _items(self) -> Iterator[int]:
            for item in range(2):
                clock.now_s += 1.0
                yield item
            clock.now_s += 0.5

    for _ in waiting.waited(Slow(), clock, waits_s):
        clock.now_s += 32.0

    assert waits_s == [9.0, 1.0, 0.5]


def test_the_share_waited_is_of_all_seconds_together(setup: Setup) -> None:
    first = EpochTime(10.0, (4.0, 1.0))
    later = [EpochTime(2.0, (0.25, 0.25)), EpochTime(8.0, (0.5, 0.0))]

    finding = waiting.finding_of(setup, [first, *later], workers=1, amp="off")

    assert finding.raw["share_first"] == 0.5  # 5 / 10
    assert finding.raw["share_later"] == 0.1  # 1 / 10
    assert finding.table.rows[1] == ("2 later", "5.00", "0.500", "10.0 %")


def test_waiting_is_measured_on_the_loops_own_frames_and_trainer(
    painted: Path, tmp_path: Path
) -> None:
    invoke("waiting", painted, tmp_path / "out")

    content = json.loads((tmp_path / "out" / "RESULT.json").read_text())
    assert len(content["epochs"]) == 2
    for epoch in content["epochs"]:
        assert len(epoch["waits_s"]) == 4  # 12 photos in batches of 4, and the end of them
        assert 0 < sum(epoch["waits_s"]) < epoch["epoch_s"]
    assert 0 < content["share_later"] < 1


# --- corrections ---


def test_a_variant_that_trained_on_the_scored_photos_is_not_compared(setup: Setup) -> None:
    outcomes = [
        corrections.Outcome(variant, run, known_val, known_test)
        for variant, run, known_val, known_test in (
            (corrections.VARIANTS[0], trained(1.0, 0.75, 0.5), 0.0, 0.0),
            (corrections.Variant("v", (Fault.BLENDED_MASKS,), "w"), trained(1, 0.5, 0.25), 0, 0),
            (corrections.Variant("s", (Fault.SHARED_PHOTOS,), "w"), trained(1, 1, 0.9), 1.0, 0.5),
        )
    ]

    finding = corrections.finding_of(setup, outcomes)

    assert [row[1:4] for row in finding.table.rows] == [
        ("0.7500", "0.5000", ""),
        ("0.5000", "0.2500", "-0.2500"),
        ("1.0000 †", "0.9000 †", "†"),
    ]
    assert any("100 % of the validation and 50 % of the test" in note for note in finding.notes)
    assert finding.raw["variants"][2]["test_minus_sound"] is None


def test_known_photos_are_recognised_by_content_whatever_they_are_called(tmp_path: Path) -> None:
    def photos(*contents: str) -> PhotoSet:
        items = []
        for place, content in enumerate(contents):
            path = tmp_path / f"{'-'.join(contents)}{place}.jpg"
            path.write_text(content)
            items.append(LabelledPhoto(path.name, path, path, OXFORD_PALETTE))
        return PhotoSet("set", tuple(items))

    assert corrections.known_share(photos("a", "b"), photos("c", "b", "d", "e")) == 0.25


def test_every_fault_is_a_variant_alone_and_all_are_one_together() -> None:
    faults = [variant.faults for variant in corrections.VARIANTS]

    assert [alone[0] for alone in faults if len(alone) == 1] == list(Fault)
    assert faults[0] == ()
    assert faults[-1] == tuple(Fault)


@pytest.mark.slow
def test_corrections_are_measured_from_one_seed_and_scored_alike(
    painted: Path, checkpoint: Path, tmp_path: Path, in_process: list[list[str]]
) -> None:
    out = tmp_path / "out"
    result = invoke("corrections", painted, out, "--weights", str(checkpoint), "--epochs", "1")

    content = json.loads((out / "RESULT.json").read_text())
    by_name = {variant["name"]: variant for variant in content["variants"]}
    assert len(in_process) == len(by_name) == 8
    assert by_name["sound"]["trained_on_share_of_val"] == 0.0
    assert by_name["shared-photos"]["trained_on_share_of_val"] > 0
    losses = [variant["run"]["report"]["epochs"][0]["train_loss"] for variant in by_name.values()]
    assert len(set(losses)) == 8  # each fault reached its run
    for words in in_process:
        assert words[words.index("--seed") + 1] == "0"
        assert words[words.index("--val-split") + 1] == "val1"
        assert "without-head" in words[words.index("--weights") + 1]
    assert "not comparable" in result.stdout


# --- what is written ---


def test_a_record_tells_what_how_and_on_which_machine(setup: Setup) -> None:
    record = recorded(lambda: cache.finding_of(setup, [trained(1.0, 0.5)] * 3), "python -m here")
    conditions = dataclasses.replace(record.conditions, load_at_start=IDLE_LOAD + 1)
    busy = Record(record.finding, conditions, load_at_end=3.0)

    content = json.loads(json_of(busy))

    assert content["conditions"]["cores"] >= 1
    assert content["conditions"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert content["conditions"]["command"].startswith("python -m here ")
    assert content["load_at_end"] == 3.0
    assert any("not idle" in note for note in content["notes"])
    assert "| processor |" in markdown_of(busy)


def test_help_of_every_command_imports_no_torch() -> None:
    script = (
        "import sys; from click.testing import CliRunner;"
        "from flowerseg_bench.training.cli import main;"
        "[print(CliRunner().invoke(main, [name, '--help']).output) for name in main.commands];"
        "sys.exit('torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--data") == 4
