"""Every way from a folder of photos to a folder of masks, in turns, and how they compare."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from flowerseg.arrays import Mask
from flowerseg.artifact import Artifact, Precision, computed_in, open_artifact
from flowerseg.backends import fastest_proved, for_folders, runtimes_here
from flowerseg.checkpoint import load_checkpoint
from flowerseg.errors import ArtifactError
from flowerseg.images import read_mask_colours
from flowerseg.metrics import score_text
from flowerseg.predict import PredictSettings
from flowerseg.segmenter import Segmenter
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.doubts import doubts_of
from flowerseg_bench.jobs import FolderJob, SegmentFolder, interleaved, predicting
from flowerseg_bench.monitor import Monitor
from flowerseg_bench.peers import loops
from flowerseg_bench.peers.ceiling import Ceiling, ceilings_of
from flowerseg_bench.photos import Photos, link_photos, open_bench_photos
from flowerseg_bench.quality import agreement_iou, flower_iou
from flowerseg_bench.ratios import duration_ms
from flowerseg_bench.record import Finding, table_of
from flowerseg_bench.results import Measurement, Scenario
from flowerseg_bench.stats import Ratio, Throughput, ratio
from flowerseg_bench.suite import Cell, measurement_of
from flowerseg_bench.tables import number, times
from flowerseg_bench.timing import Budget, Clock, wall_clock

ROUNDS = 4
LEAST_PHOTOS = 16  # in a round: two of predict's batches


@dataclass(frozen=True)
class Setup:
    """What is compared, and on which photos."""

    checkpoint: Path
    models: tuple[Path, ...]
    data: Path
    split: str = "val"
    photos: Path | None = None
    seconds: float = 12.0


@dataclass(frozen=True)
class Way:
    """One way to the masks of a folder."""

    name: str
    file: str  # the model
    sha256: str
    precision: Precision  # that it computes in
    is_ours: bool
    segment: SegmentFolder
    is_auto: bool = False  # the runtime that flowerseg-predict takes unasked


@dataclass(frozen=True)
class Result:
    """What a way took, and what its masks are worth."""

    way: Way
    measurement: Measurement
    doubts: tuple[str, ...]
    flower_iou: float | None  # None: the labels hold one class only
    agreement_iou: float  # with the notebook's masks


def measure_peers(setup: Setup, work: Path, clock: Clock = wall_clock) -> Finding:
    """Open all ways, judge their masks, and let them take turns.

    Raises:
        FlowersegError: a model or the photos cannot be used.
    """
    checkpoint = open_artifact(setup.checkpoint)
    models = [open_artifact(model) for model in setup.models]
    _refuse_strangers(checkpoint, models)
    rules = checkpoint.manifest.rules
    photos = open_bench_photos(setup.photos, setup.data, setup.split, rules, work)
    with ExitStack() as stack:
        ways = list(_ways(checkpoint, models, stack))
        masks = [_masks_of(way, photos, Path(mkdtemp(dir=work))) for way in ways]
        ours = {(way.file, way.sha256, way.precision): None for way in ways if way.is_ours}
        before = ceilings_of(ours, clock)
        results = _measured(ways, masks, photos, setup, work, clock)
        after = ceilings_of(ours, clock)
    ceilings = [max(pair, key=lambda c: c.photos_per_s) for pair in zip(before, after, strict=True)]
    source = f"{len(photos.files)} photos of {photos.source}"
    return finding_of(setup, results, source, ceilings)


def _refuse_strangers(checkpoint: Artifact, models: Sequence[Artifact]) -> None:
    for model in models:
        if checkpoint.manifest.sha256 not in {p.sha256 for p in model.manifest.parents}:
            raise ArtifactError(
                f"{model.path} was not made from {checkpoint.path}: their speeds do not compare."
            )


def _ways(checkpoint: Artifact, models: Sequence[Artifact], stack: ExitStack) -> Iterator[Way]:
    """The notebook's way first, then the other peers, then ours."""
    size_hw = checkpoint.manifest.preprocess.size_hw

    def peer(
        name: str, artifact: Artifact, engine: loops.Engine, computed: Precision | None = None
    ) -> Way:
        segment = partial(loops.segment_in_turn, engine, size_hw)
        manifest = artifact.manifest
        return Way(
            f"{name}, {artifact.path.name}",
            str(artifact.path),
            manifest.sha256,
            computed or manifest.precision,
            is_ours=False,
            segment=segment,
        )

    yield peer("notebook", checkpoint, loops.eager(load_checkpoint(checkpoint.path)[1]))
    yield peer("torch.compile", checkpoint, loops.compiled(load_checkpoint(checkpoint.path)[1]))
    for model in models:
        yield peer("ONNX Runtime", model, loops.onnxruntime_session(model.path))
        yield peer("OpenVINO", model, loops.openvino_model(model.path))
        if "openvino-bf16" in runtimes_here(model.manifest, "cpu"):
            engine = loops.openvino_model(model.path, "bf16")
            yield peer("OpenVINO in bfloat16", model, engine, Precision.BF16)
    for model in models:
        auto = fastest_proved(model.manifest, "cpu")
        for runtime in runtimes_here(model.manifest, "cpu"):
            if model.manifest.is_proved_in(runtime, "cpu"):
                segmenter = stack.enter_context(
                    Segmenter.open(
                        model.path,
                        device="cpu",
                        runtime=runtime,
                        options=for_folders(model.manifest, runtime, "cpu"),
                    )
                )
                yield Way(
                    f"flowerseg-predict, {model.path.name} in {runtime}",
                    str(model.path),
                    model.manifest.sha256,
                    computed_in(runtime, model.manifest.precision),
                    is_ours=True,
                    segment=predicting(segmenter, PredictSettings()),
                    is_auto=runtime == auto,
                )


def _masks_of(way: Way, photos: Photos, work: Path) -> list[Mask]:
    """The masks of the photos that are judged, as they lie on disk."""
    files = photos.for_quality
    folder, out = work / "photos", work / "out"
    link_photos(files, 0, len(files), folder)
    way.segment(folder, out)
    written = {path.name: path for path in out.rglob("*.png")}
    return [
        read_mask_colours(written[f"{link.name}.png"])[..., 0] >= 128
        for link in sorted(folder.iterdir())
    ]


def _measured(
    ways: Sequence[Way],
    masks: Sequence[Sequence[Mask]],
    photos: Photos,
    setup: Setup,
    work: Path,
    clock: Clock,
) -> list[Result]:
    budget = Budget(for_s=setup.seconds / ROUNDS)
    jobs = [
        FolderJob(way.segment, photos.files, work / "timed", LEAST_PHOTOS, budget, clock)
        for way in ways
    ]
    cell = Cell(Boundary.FILE, Scenario.THROUGHPUT, 1)
    labelled = photos.labelled_for_quality
    if labelled is None:
        raise AssertionError("the command asks for --data")
    results = []
    for row, (warm, turns) in enumerate(interleaved(jobs, ROUNDS, Monitor())):
        measurement = measurement_of(cell, row, warm, turns)
        results.append(
            Result(
                way=ways[row],
                measurement=measurement,
                doubts=doubts_of(measurement, None, 0.0),
                flower_iou=flower_iou(masks[row], labelled),
                agreement_iou=agreement_iou(masks[row], masks[0]),
            )
        )
    return results


def finding_of(
    setup: Setup, results: Sequence[Result], photos: str, ceilings: Sequence[Ceiling] = ()
) -> Finding:
    """Every way in a row; ours against the notebook's, and against the best other peer.

    The best is the fastest of those that compute the same file in the same precision, and of
    `torch.compile`.
    """
    notebook = results[0]
    rows, raw = [], []
    for result in results:
        rival = best_peer(results, result) if result.way.is_ours else None
        to_notebook = None if result is notebook else ratio_of(notebook, result)
        to_rival = ratio_of(rival, result) if rival else None
        rows.append(_row(result, to_notebook, rival, to_rival))
        raw.append(
            {
                "name": result.way.name,
                "is_auto": result.way.is_auto,
                "file": result.way.file,
                "sha256": result.way.sha256,
                "precision": result.way.precision,
                "flower_iou": result.flower_iou,
                "agreement_iou": result.agreement_iou,
                "throughput": asdict(_throughput(result)),
                "rounds": [asdict(each) for each in result.measurement.rounds],
                "doubts": result.doubts,
                "times_notebook": asdict(to_notebook) if to_notebook else None,
                "times_best_peer": asdict(to_rival) if to_rival else None,
                "best_peer": rival.way.name if rival else None,
            }
        )
    columns = ("way", "photos/s", "× notebook", "× best peer", "flower IoU", "agreement")
    return Finding(
        headline=_headline(results),
        table=table_of("From photo files to mask files", columns, rows, words=("best peer",)),
        notes=(
            f"{ROUNDS} rounds, in which the ways took turns, on {photos}; in brackets the lowest "
            "and the highest of the rounds",
            "Peers take one photo after the other and flush nothing to the disk; "
            "flowerseg-predict flushes every mask",
            "Agreement is with the notebook's masks; IoUs are of the files that each way wrote",
            *(_ceiling_in_words(ceiling, notebook) for ceiling in ceilings),
            *(f"auto does not take the fastest runtime: {name}" for name in overtaken(results)),
            *(f"† {r.way.name}: {', '.join(_kinds(r.doubts))}" for r in results if r.doubts),
        ),
        raw={
            "settings": _settings(setup),
            "rounds": ROUNDS,
            "ways": raw,
            "ceilings": [
                asdict(ceiling) | {"photos_per_s": round(ceiling.photos_per_s, 4)}
                for ceiling in ceilings
            ],
        },
    )


def _ceiling_in_words(ceiling: Ceiling, notebook: Result) -> str:
    most = ceiling.photos_per_s
    return (
        f"{Path(ceiling.file).name} in {ceiling.precision} takes "
        f"{number(ceiling.multiply_adds / 1e9)} G multiply-adds a photo, those that meet padding "
        f"left out; the cores multiply matrices at {number(ceiling.matrix_gflop_per_s)} G "
        f"operations/s, two a multiply-add: at most {number(most)} photos/s, "
        f"{most / _throughput(notebook).images_per_s:.2f} times the notebook's way, were there "
        "nothing else to do"
    )


def best_peer(results: Sequence[Result], ours: Result) -> Result | None:
    """The fastest other peer of our file and precision, and `torch.compile` of the checkpoint."""
    checkpoint, mine = results[0].way.sha256, (ours.way.sha256, ours.way.precision)
    rivals = [
        result
        for result in results[1:]
        if not result.way.is_ours
        and (result.way.sha256 == checkpoint or (result.way.sha256, result.way.precision) == mine)
    ]
    return max(rivals, key=lambda r: _throughput(r).images_per_s, default=None)


def overtaken(results: Sequence[Result]) -> list[str]:
    """Ours in runtimes that `auto` does not take, and that were faster in every single round."""
    return [
        other.way.name
        for auto in results
        for other in results
        if auto.way.is_auto
        and other.way.is_ours
        and other.way.sha256 == auto.way.sha256
        and ratio_of(auto, other).low > 1
    ]


def ratio_of(baseline: Result, mine: Result) -> Ratio:
    """How many times as fast `mine` is, with the rounds that say the least and the most."""
    theirs, ours = baseline.measurement.rounds, mine.measurement.rounds
    kind = Scenario.THROUGHPUT
    return ratio(
        duration_ms(theirs, kind),
        duration_ms(ours, kind),
        [
            (duration_ms([a], kind), duration_ms([b], kind))
            for a, b in zip(theirs, ours, strict=True)
        ],
    )


def _headline(results: Sequence[Result]) -> str:
    told = []
    for result in results:
        if result.way.is_auto and (rival := best_peer(results, result)):
            told.append(
                f"{result.way.name}: {ratio_of(results[0], result).times:.2f} times the notebook's "
                f"way, {ratio_of(rival, result).times:.2f} times {rival.way.name}"
            )
    return "; ".join(told)


def _kinds(doubts: Sequence[str]) -> list[str]:
    """Each doubt by what stands before its colon; raw numbers have the sentences."""
    return [doubt.partition(":")[0] for doubt in doubts]


def _row(
    result: Result, to_notebook: Ratio | None, rival: Result | None, to_rival: Ratio | None
) -> tuple[str, ...]:
    auto = " (auto)" if result.way.is_auto else ""
    return (
        result.way.name + auto + ("†" if result.doubts else ""),
        number(_throughput(result).images_per_s),
        times(to_notebook),
        times(to_rival),
        score_text(result.flower_iou),
        f"{result.agreement_iou:.4f}",
        rival.way.name if rival else "-",
    )


def _throughput(result: Result) -> Throughput:
    found = result.measurement.throughput
    if found is None:
        raise AssertionError("folders are measured for nothing else")
    return found


def _settings(setup: Setup) -> dict[str, Any]:
    return {
        "checkpoint": str(setup.checkpoint),
        "models": [str(model) for model in setup.models],
        "data": str(setup.data),
        "split": setup.split,
        "photos": str(setup.photos or ""),
        "seconds": setup.seconds,
    }
