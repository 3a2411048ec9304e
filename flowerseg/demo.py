"""The whole chain as a user would type it: every step is one of the commands, run as a process."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowerseg.artifact import versions_here
from flowerseg.data import open_photos
from flowerseg.download import download_oxford17
from flowerseg.errors import DownloadError, FlowersegError, OutputError
from flowerseg.files import write_text
from flowerseg.images import read_rgb
from flowerseg.jsonform import from_json
from flowerseg.page import jpeg_url, render_page
from flowerseg.paint import write_painted_dataset
from flowerseg.proofrecord import Proof
from flowerseg.shipped import shipped_model
from flowerseg.usercache import user_cache

Say = Callable[[str], None]
"""Called with a line for the user."""


@dataclass(frozen=True)
class Scale:
    """How much of everything; `QUICK` ends within four minutes on two cores."""

    epochs: int
    from_shipped: bool  # train a head on the shipped network's features, or all from nothing
    painted: int
    proof_photos: int
    bench_seconds: float
    folder_photos: int | None  # None: all of the test split


QUICK = Scale(
    epochs=8,
    from_shipped=True,
    painted=240,
    proof_photos=24,
    bench_seconds=0.3,
    folder_photos=40,
)
FULL = Scale(
    epochs=60,
    from_shipped=False,
    painted=1200,
    proof_photos=200,
    bench_seconds=3.0,
    folder_photos=None,
)


@dataclass(frozen=True)
class Source:
    """Where the labelled photos come from."""

    root: Path
    words: str


@dataclass
class Step:
    """One command, as typed, and what came of it."""

    title: str
    words: list[str]
    exit_code: int = 0
    result: Any = field(default=None, repr=False)  # its --json

    @property
    def command(self) -> str:
        """The line to type."""
        return "flowerseg-" + shlex.join(self.words)


@dataclass(frozen=True)
class Summary:
    """What the demo ends with."""

    data: str
    val_iou: float | None
    models: tuple[dict[str, Any], ...]
    bench: tuple[dict[str, Any], ...]
    photos_segmented: int
    report: str
    warnings: tuple[str, ...] = ()  # that the steps gave about their scores


def run_demo(out: Path, scale: Scale, say: Say) -> Summary:
    """Train, export, prove, bench and segment; leave `out/report.html`.

    Raises:
        FlowersegError: a step failed; its own message is already on stderr.
    """
    source = choose_data(out, scale, say)
    say(f"Data: {source.words}")
    photos = _copy_photos(source.root, out / "photos", scale)
    steps = _steps(source.root, photos, out, scale, say)
    for number, step in enumerate(steps, 1):
        say(f"\n[{number}/{len(steps)}] {step.title}\n$ {step.command}")
        _run(step)
    summary = _summary(source, steps, out)
    write_text(out / "report.html", render_report(source, steps, summary, out))
    return summary


def choose_data(out: Path, scale: Scale, say: Say) -> Source:
    """FLOWERSEG_DATA, else Oxford 17 from the network, else painted flowers; says which.

    Raises:
        DataError: FLOWERSEG_DATA holds no labelled photos. It is never replaced by others.
    """
    if named := os.environ.get("FLOWERSEG_DATA"):
        open_photos(Path(named), "train")
        return Source(Path(named), f"Labelled photos of {named} (FLOWERSEG_DATA)")
    try:
        root = download_oxford17(user_cache("oxford17"))
        return Source(root, f"Oxford 17 Flowers in {root}")
    except (DownloadError, OutputError) as error:  # no home folder, or a read-only one
        say(f"Oxford 17 Flowers could not be downloaded, so flowers are painted: {error}")
    root = out / "painted"
    write_painted_dataset(root, scale.painted, (224, 224))
    return Source(root, f"{scale.painted} flowers painted by flowerseg in {root}, not photographs")


def engine_target() -> str | None:
    """TensorRT where it and a GPU are, else TensorRT-RTX, which builds without one; else None."""
    import torch

    if torch.cuda.is_available() and importlib.util.find_spec("tensorrt"):
        return "tensorrt"
    return "tensorrt-rtx" if importlib.util.find_spec("tensorrt_rtx") else None


def _copy_photos(root: Path, folder: Path, scale: Scale) -> Path:
    """A folder of photos that training never saw, as a user would have one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    unseen = open_photos(root, "test" if (root / "datasplits.mat").exists() else "val")
    for item in unseen.limited(scale.folder_photos).photos:
        shutil.copyfile(item.photo, folder / item.photo.name)
    return folder


def _steps(data: Path, photos: Path, out: Path, scale: Scale, say: Say) -> list[Step]:
    run, models = out / "run", out / "models"
    best, fp32, fp16 = run / "best.pt", models / "fp32.onnx", models / "fp16.onnx"
    proof = f"--data {data} --limit {scale.proof_photos}"
    train = (
        f"train --data {data} --arch deeplabv3_mobilenet_v3_large {_start(scale, say)} "
        f"--epochs {scale.epochs} --out {run} --force"
    )
    bench = (
        f"bench {best} {fp32} {fp16} --photos {photos} --data {data} --batch 8 "
        f"--seconds {scale.bench_seconds:g} --out {out / 'bench'}"
    )
    predict = f"predict {photos} --model {fp16} --out {out / 'segmented'} --save mask,overlay"
    lines = [
        ("Fine-tune DeepLabV3-MobileNetV3", train),
        ("Export to ONNX FP32, and prove the file", f"export {best} {proof} --out {fp32} --force"),
        _fp16_export(best, models, proof, say),
        ("Prove again, as a deployer would", f"verify {fp16} --reference {best} {proof}"),
        ("Measure speed, with IoU beside it", bench),
        ("Segment a folder", predict),
    ]
    return [Step(title, shlex.split(line)) for title, line in lines]


def _start(scale: Scale, say: Say) -> str:
    """The options that say where training starts and what it changes."""
    if not scale.from_shipped:
        return "--weights none --trainable all"
    shipped = shipped_model()
    say(
        "A new head is trained on the features of the model that comes with flowerseg. Those were "
        "learned on photos of Oxford 17 Flowers: on that data set this IoU is no test."
    )
    here = Path.cwd()
    near = shipped.relative_to(here) if shipped.is_relative_to(here) else shipped
    return f"--weights {shlex.quote(str(near))} --trainable head"


def _fp16_export(best: Path, models: Path, proof: str, say: Say) -> tuple[str, str]:
    target = engine_target()
    if target is None:
        say('No TensorRT here, so no engine is built: pip install "flowerseg[rtx]" adds it.')
        line = f"export {best} --fp16 {proof} --out {models / 'fp16.onnx'} --force"
        return "Export to ONNX FP16, and prove the file", line
    line = f"export {best} --to {target} --fp16 {proof} --out {models / 'fp16.engine'} --force"
    return f"Export to ONNX FP16 and build a {target} engine from it", line


def _run(step: Step) -> None:
    """Run a command with --json; its progress and errors go straight to the user's stderr."""
    argv = [sys.executable, "-m", "flowerseg", *step.words, "--json"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    step.exit_code = done.returncode
    if done.returncode != 0:
        raise FlowersegError(
            f"{step.title}: the command ended with exit code {done.returncode}; its error is "
            f"above. Run it alone to look closer: {step.command}"
        )
    step.result = json.loads(done.stdout)


def _summary(source: Source, steps: Sequence[Step], out: Path) -> Summary:
    train = steps[0].result
    manifests = [json.loads(p.read_text()) for p in sorted((out / "models").glob("*.json"))]
    names = [p.stem for p in sorted((out / "models").glob("*.json"))]
    return Summary(
        data=source.words,
        val_iou=train["splits"][0]["scores"]["iou"],
        models=tuple(
            _model_row(name, m, out / "models" / name)
            for name, m in zip(names, manifests, strict=True)
        ),
        bench=tuple(_bench_rows(steps[4].result)),
        photos_segmented=steps[5].result["counts"]["ok"],
        report=str(out / "report.html"),
        warnings=_warnings(train, manifests),
    )


def _warnings(train: Mapping[str, Any], manifests: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The warnings of the training and of the proofs, each once.

    Those of the benchmark are on its own page.
    """
    # They import torch, which the demo's own process has no other use for.
    from flowerseg.proof.checks import warnings_of
    from flowerseg.train.page import report_warnings

    proofs = [from_json(Proof, manifest["proof"]) for manifest in manifests]
    found = [*report_warnings(train), *(w for proof in proofs for w in warnings_of(proof))]
    return tuple(dict.fromkeys(found))


def _model_row(name: str, manifest: Mapping[str, Any], path: Path) -> dict[str, Any]:
    proof = manifest["proof"]
    return {
        "file": name,
        "precision": manifest["precision"],
        "size_mib": round(path.stat().st_size / 2**20, 1),
        "proof": proof["status"],
        "agreement_iou": proof["agreement_iou"],
        "model_iou": proof["model_iou"],
        "reference_iou": proof["reference_iou"],
        "how": proof["how"],
        "sha256": manifest["sha256"],
    }


def _bench_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each row the figures that answer "how fast, at what quality"."""
    found = {(m["row"], m["boundary"], m["scenario"]): m for m in results["measurements"]}

    def latency_ms(row: int, boundary: str) -> float | None:
        measured = found.get((row, boundary, "latency"))
        return measured["latency"]["median_ms"] if measured else None

    def throughput(row: int, boundary: str) -> float | None:
        measured = found.get((row, boundary, "throughput"))
        return measured["throughput"]["images_per_s"] if measured else None

    return [
        {
            "name": row["name"],
            "engine_latency_ms": latency_ms(index, "engine"),
            "file_to_mask_latency_ms": latency_ms(index, "file-to-mask"),
            "engine_images_per_s": throughput(index, "engine"),
            "file_to_mask_images_per_s": throughput(index, "file-to-mask"),
            "agreement_iou": row["quality"]["agreement_iou"],
            "flower_iou": row["quality"]["flower_iou"],
        }
        for index, row in enumerate(results["rows"])
        if row["file"]
    ]


def render_report(source: Source, steps: Sequence[Step], summary: Summary, out: Path) -> str:
    """One HTML page that needs no other file and no network."""
    results = steps[5].result
    return render_page(
        "demo.html",
        source=source,
        steps=steps,
        summary=summary,
        train=steps[0].result,
        val=steps[0].result["splits"][0],
        curves=out / "run" / "curves.png",
        panels=sorted((out / "run" / "panels").glob("epoch_*.jpg"))[-1],
        worst=out / "run" / "panels" / f"worst_{_short(steps[0].result)}.jpg",
        overlays=[
            jpeg_url(read_rgb(path))
            for path in sorted((out / "segmented").rglob("overlays/*"))[:24]
        ],
        bench_page=(out / "bench" / "report.html").read_text(encoding="utf-8"),
        backend=results["backend"],
        counts=results["counts"],
        versions=versions_here(),
    )


def _short(train: Mapping[str, Any]) -> str:
    """`val1` of `flowers17/val1`, as panels are named."""
    return str(train["splits"][0]["name"]).rpartition("/")[2]
