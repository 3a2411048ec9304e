"""`flowerseg-train`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flowerseg.cli.options import Command, device_option, json_option, print_result, stderr_console

if TYPE_CHECKING:
    from flowerseg.train import Epoch, TrainReport

ARCHITECTURES = ["deeplabv3_resnet101", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"]


@click.command(cls=Command)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Oxford 17 Flowers (jpg/, trimaps/, datasplits.mat), or a folder with photos/ and masks/.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the run's files."
)
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
    "--epochs", type=click.IntRange(min=1), help="[default: 10 head, 20 classifier, 50 all]"
)
@click.option("--batch-size", type=click.IntRange(min=2), default=16, show_default=True)
@click.option(
    "--lr",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Peak of the one-cycle schedule. [default: 0.01 head, 0.002 classifier and all]",
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
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--force", is_flag=True, help="Replace a run that is already in --out.")
@device_option
@json_option
def train(
    data: Path,
    out: Path,
    arch: str,
    weights: str,
    trainable: str,
    epochs: int | None,
    batch_size: int,
    lr: float | None,
    size: int,
    train_split: str,
    val_split: str,
    seed: int,
    force: bool,
    device: str,
    as_json: bool,
) -> None:
    """Fine-tune DeepLabV3 into a flower / background segmenter.

    Leaves in --out: best.pt and last.pt with their manifests, metrics.csv, curves.png, panels/ and
    report.json. Outlines and flowers that nobody labelled (void) count neither in the loss nor in
    the scores.
    """
    from typing import cast

    from flowerseg.model import Architecture
    from flowerseg.preprocess import Preprocess
    from flowerseg.train import DEFAULTS, Trainable, TrainConfig
    from flowerseg.train import train as run

    part = cast(Trainable, trainable)
    config = TrainConfig(
        data=data,
        out=out,
        architecture=Architecture(arch),
        weights=weights,
        trainable=part,
        train_split=train_split,
        val_split=val_split,
        epochs=epochs or DEFAULTS[part].epochs,
        batch_size=batch_size,
        lr=lr or DEFAULTS[part].lr,
        preprocess=Preprocess(size_hw=(size, size)),
        device=device,
        seed=seed,
        force=force,
    )
    with _TrainProgress(config.epochs) as progress:
        report = run(config, progress.on_step, progress.on_epoch)
    print_result(report, _text(report), as_json=as_json)


class _TrainProgress:
    """A bar over all steps, and one line for each validated epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._console = stderr_console()
        columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns,
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            console=self._console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "_TrainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_step(self, epoch: int, steps: int, loss: float) -> None:
        total = steps * self._epochs
        label = f"{epoch}/{self._epochs}"
        if self._task is None:  # no bar before there is a step to show: data may yet be refused
            self._progress.start()
            self._task = self._progress.add_task("", epoch=label, loss=loss)
        self._progress.update(self._task, advance=1, total=total, epoch=label, loss=loss)

    def on_epoch(self, epoch: "Epoch") -> None:
        if epoch.scores:
            self._console.print(
                f"epoch {epoch.epoch:3d}  loss {epoch.train_loss:.4f}  "
                f"val IoU {epoch.scores.iou:.4f}  mean {epoch.scores.mean_iou:.4f}"
            )


def _text(report: "TrainReport") -> str:
    val = report.val
    name, worst = report.worst_photos[0]
    return (
        f"{report.checkpoint}: best of {len(report.epochs)} epochs is {report.best_epoch}\n"
        f"flower IoU {val.iou:.4f} on {val.photos} photos (void left out), mean over photos "
        f"{val.mean_iou:.4f}, Dice {val.dice:.4f}, pixel accuracy {val.pixel_accuracy:.4f}\n"
        f"worst photo: {name}, IoU {worst:.4f}; see panels/worst.jpg"
    )
