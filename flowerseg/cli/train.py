"""`flowerseg-train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flowerseg.cli.options import (
    Command,
    FiniteRange,
    device_option,
    json_option,
    print_result,
    stderr_console,
)
from flowerseg.cli.recipe import use_recipe
from flowerseg.cli.terminal import description_column
from flowerseg.printable import printable

if TYPE_CHECKING:
    from flowerseg.train import Epoch, TrainConfig, TrainReport

ARCHITECTURES = ["deeplabv3_resnet101", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"]
FAULTS = [
    "shared-photos",
    "blended-masks",
    "void-as-background",
    "drifting-batchnorm",
    "unpadded-head",
]
# What may stand beside --resume: all else is the run's own.
_WITH_RESUME = {"resume", "device", "as_json"}


@click.command(cls=Command)
@click.option(
    "--recipe",
    metavar="notebook|FILE",
    is_eager=True,
    callback=use_recipe,
    help="Settings from a TOML file, named like these options, which come before it. notebook: "
    "the original study with its faults, named when it starts, for comparison.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with an interrupted run after its last whole epoch; takes no other settings.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Oxford 17 Flowers (jpg/, trimaps/, datasplits.mat), or a folder with photos/ and masks/.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the run's files.")
@click.option(
    "--flower-colour",
    multiple=True,
    metavar="R,G,B|N",
    help="Flower in masks of a folder; N is a grey level or class. Repeatable. [default: 255]",
)
@click.option(
    "--void-colour",
    multiple=True,
    metavar="R,G,B|N|none",
    help="Not labelled: counts nowhere. Repeatable. [default: 128]",
)
@click.option(
    "--background-colour",
    multiple=True,
    metavar="R,G,B|N|any",
    help="any: every other colour. Repeatable. [default: 0]",
)
@click.option(
    "--mask-tolerance",
    type=click.IntRange(0, 127),
    default=0,
    show_default=True,
    metavar="N",
    help="Take each colour of a folder's masks for the nearest one named above, if no channel "
    "differs by more than N: for masks saved as JPEG. The mask is refused where two are as near.",
)
@click.option(
    "--val-share",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of a folder's photos that validate, the same of each class (subfolder); not used "
    "where train.txt and val.txt list names.",
)
@click.option("--split-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--arch", type=click.Choice(ARCHITECTURES), default=ARCHITECTURES[0], show_default=True
)
@click.option(
    "--weights",
    default="coco",
    show_default=True,
    metavar="coco|imagenet|none|FILE",
    help="Where the network starts from.",
)
@click.option(
    "--trainable",
    type=click.Choice(["head", "classifier", "all"]),
    default="head",
    show_default=True,
    help="What trains; the rest is frozen, its BatchNorm too.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), help="[default: 10 head, 20 classifier, 60 all]"
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="Of all processes together, under torchrun.",
)
@click.option(
    "--lr",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    help="Peak of the schedule. [default: 0.01 head, 0.002 classifier and all]",
)
@click.option(
    "--optimiser", type=click.Choice(["adamw", "adam"]), default="adamw", show_default=True
)
@click.option(
    "--schedule",
    type=click.Choice(["one-cycle", "constant"]),
    default="one-cycle",
    show_default=True,
)
@click.option(
    "--overlap-weight",
    type=FiniteRange(min=0),
    help="Of the soft IoU in the loss. [default: 0 head, 1 classifier and all]",
)
@click.option(
    "--views",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Frames of each photo where only the head trains: itself, and augmented ones.",
)
@click.option(
    "--cache/--no-cache",
    default=True,
    show_default=True,
    help="Where only the head trains, compute the frozen network's features once and keep them.",
)
@click.option(
    "--cache-gib",
    type=FiniteRange(min=0, min_open=True),
    default=20,
    show_default=True,
    help="Bound on all kept features; the longest unused go first.",
)
@click.option(
    "--amp",
    type=click.Choice(["auto", "bf16", "fp16", "off"]),
    default="auto",
    show_default=True,
    help="Mixed precision; auto is what the hardware computes fast.",
)
@click.option(
    "--size",
    type=click.IntRange(32, 4096),
    default=224,
    show_default=True,
    help="Side of the square frame, in pixels.",
)
@click.option("--train-split", default="train", show_default=True, help="trn1 in Oxford 17.")
@click.option("--val-split", default="val", show_default=True, help="val1 in Oxford 17.")
@click.option(
    "--test-split", help="Scored once, by the best checkpoint: test is tst1 in Oxford 17."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--fault",
    type=click.Choice(FAULTS),
    multiple=True,
    help="Repeat a fault of the original study, to see what its correction is worth. Repeatable.",
)
@click.option("--force", is_flag=True, help="Replace a run that is already in --out.")
@device_option
@json_option
@click.pass_context
def train(ctx: click.Context, /, resume: Path | None, as_json: bool, **options: Any) -> None:
    """Fine-tune DeepLabV3 into a flower / background segmenter.

    Leaves in --out: best.pt and last.pt with their manifests, config.json, metrics.csv, curves.png,
    panels/, report.json and report.html. Outlines and flowers that nobody labelled (void) count
    neither in the loss nor in the scores. Under torchrun all processes train together.
    """
    from flowerseg.train import train as run

    config = _config_to_go_on(ctx, resume) if resume else _config(**options)
    with _TrainProgress(config.epochs) as progress:
        report = run(config, progress, resume=resume is not None)
    print_result(report, _text(report), as_json=as_json)


def _config(
    data: Path | None,
    out: Path | None,
    arch: str,
    size: int,
    epochs: int | None,
    lr: float | None,
    overlap_weight: float | None,
    flower_colour: tuple[str, ...],
    void_colour: tuple[str, ...],
    background_colour: tuple[str, ...],
    val_share: float,
    split_seed: int,
    mask_tolerance: int,
    cache_gib: float,
    fault: tuple[str, ...],
    recipe: str | None,
    **same: Any,
) -> "TrainConfig":
    """The run that the command line describes; options that need no translation are in `same`."""
    from flowerseg.folder import rules_from_text
    from flowerseg.model import Architecture
    from flowerseg.preprocess import Preprocess
    from flowerseg.train import DEFAULTS, Fault, TrainConfig

    if data is None or out is None:
        raise click.UsageError("--data and --out are needed (or --resume RUN).")
    try:
        rules = rules_from_text(
            flower_colour, void_colour, background_colour, val_share, split_seed, mask_tolerance
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    usual = DEFAULTS[same["trainable"]]
    if not 0 < cache_gib < 2**30:
        raise click.UsageError(f"--cache-gib must be between 0 and 2^30, not {cache_gib}.")
    try:
        return TrainConfig(
            data=data,
            out=out,
            rules=rules,
            architecture=Architecture(arch),
            preprocess=Preprocess(size_hw=(size, size)),
            epochs=epochs or usual.epochs,
            lr=lr or usual.lr,
            overlap_weight=usual.overlap_weight if overlap_weight is None else overlap_weight,
            cache_bytes=round(cache_gib * 2**30),
            faults=tuple(Fault(name) for name in fault),
            **same,
        )
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def _config_to_go_on(ctx: click.Context, run: Path) -> "TrainConfig":
    import dataclasses

    from flowerseg.train import RunFolder

    given = [
        name
        for name in ctx.params
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        and name not in _WITH_RESUME
    ]
    if given:
        listed = ", ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"--resume goes on with the run's own settings: leave out {listed}.")
    return dataclasses.replace(RunFolder(run).config(), device=ctx.params["device"])


class _Speed(ProgressColumn):
    """Photos a second, as the bar's own clock has it."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        return Text(f"{task.speed:.0f} photos/s" if task.speed else "", no_wrap=True)


class _TrainProgress:
    """A bar over all photos of all epochs, and one line for each validated epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._console = stderr_console()
        self._progress = Progress(
            description_column(),
            BarColumn(bar_width=10),  # what is left of a line of 80
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            _Speed(),
            TextColumn("{task.fields[losses]}"),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._iou = ""

    def __enter__(self) -> "_TrainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self._console.print(text)

    def features(self, split: str, done: int, total: int) -> None:
        self._show(f"features {split}", done, total, "")

    def step(self, epoch: int, loss: float, done: int, total: int) -> None:
        self._show(f"epoch {epoch}/{self._epochs}", done, total, f"loss {loss:.3f}{self._iou}")

    def epoch(self, epoch: "Epoch") -> None:
        from flowerseg.metrics import score_text

        if epoch.scores:
            self._iou = f" IoU {score_text(epoch.scores.iou)}"
            self._console.print(
                f"epoch {epoch.epoch:3d}  loss {epoch.train_loss:.4f}  "
                f"val IoU {score_text(epoch.scores.iou)}  "
                f"mean {score_text(epoch.scores.mean_iou)}"
            )

    def _show(self, title: str, done: int, total: int, losses: str) -> None:
        if title.partition(" ")[0] != self._title.partition(" ")[0] or self._task is None:
            # No bar before there is a step to show, since data may yet be refused; and a new one
            # for what goes at another speed.
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._progress.start()
            self._task = self._progress.add_task(title, total=total, losses=losses, completed=done)
        self._title = title
        self._progress.update(
            self._task, description=title, completed=done, total=total, losses=losses
        )


def _text(report: "TrainReport") -> str:
    from flowerseg.metrics import score_text
    from flowerseg.train.report import warnings_of

    lines = [
        f"{report.checkpoint}: best of {len(report.epochs)} epochs is {report.best_epoch}",
    ]
    for split in report.splits:
        found = split.scores
        worst = "".join(f"; worst {printable(name)}, {iou:.4f}" for name, iou in split.worst[:1])
        lines += [
            f"{split.name}, {split.role}: flower IoU {score_text(found.iou)} on {found.photos} "
            f"photos (void left out), mean over photos {score_text(found.mean_iou)}, Dice "
            f"{score_text(found.dice)}, pixel accuracy {score_text(found.pixel_accuracy)}{worst}",
        ]
    lines += [f"WARNING {warning}" for warning in warnings_of(report.splits)]
    folder = report.config.out
    return "\n".join([*lines, f"{folder}/report.html shows curves, panels and the worst photos"])
