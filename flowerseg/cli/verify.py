"""`flowerseg-verify`."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flowerseg.cli.options import (
    Command,
    FiniteRange,
    device_option,
    few_photos_option,
    json_option,
    print_result,
    runtime_option,
    stderr_console,
    trust_option,
)
from flowerseg.cli.terminal import echo

if TYPE_CHECKING:
    from flowerseg.artifact import Artifact
    from flowerseg.data import PhotoSet
    from flowerseg.proof import Evidence
    from flowerseg.proofrecord import Limits, Proof

_SHARE = FiniteRange(0.0, 1.0)
_FILE = click.Path(path_type=Path, dir_okay=False)
_COLUMNS = 100  # of the text


_LIMITS = {
    "min-agreement": "Agreement IoU at least.",
    "max-iou-drop": "Loss of IoU against truth, at most.",
    "max-flipped": "Share of a photo's pixels that change sides, at most.",
    "max-difference": "Of a probability, at most.",
    "max-undecided": "Mean difference where PyTorch is undecided, at most.",
    "min-other-agreement": "Agreement IoU at thresholds 0.1 and 0.9, at least.",
    "max-tail": "Mean difference where PyTorch is sure, at most.",
    "max-stressed": "Mean difference of a stress frame's probabilities, at most.",
    "max-batched": "Share of a photo's pixels, in a batch and alone, at most.",
    "max-batched-difference": "Of a probability, in a batch and alone, at most.",
    "max-module-difference": "INT8: of a module's output from what its scales give, at most.",
    "max-agreement-drop": "INT8: agreement IoU below that of its emulation, at most.",
    "max-emulated": "INT8: share of a photo's pixels, beside its emulation, at most.",
}


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each limit of a proof."""
    for name, text in reversed(_LIMITS.items()):
        command = click.option(f"--{name}", type=_SHARE, help=f"{text} [default: by precision]")(
            command
        )
    return command


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    required=True,
    help="The checkpoint (.pt) that the model was made from.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of labelled photos.")
@click.option(
    "--photos",
    type=click.Path(path_type=Path),
    help="Instead of --data: folder of photos without labels. Agreement alone is proved.",
)
@click.option("--split", help="Of --data: train, val, or val1 in Oxford 17. [default: val]")
@click.option("--limit", type=click.IntRange(min=1), help="Use this many photos of the split.")
@few_photos_option
@click.option(
    "--largest-batch",
    type=click.IntRange(min=1),
    show_default="16, or what the model takes",
    help="Prove batches of up to so many photos, of a model that takes any.",
)
@click.option(
    "--cuda-graph/--no-cuda-graph",
    default=None,
    show_default="as flowerseg-predict",
    help="Prove batches that are replayed from a CUDA graph.",
)
@limit_options
@click.option(
    "--report",
    type=_FILE,
    help="Write an HTML page of the proof. Without it, MODEL.proof.html where the proof fails.",
)
@click.option("--junit", type=_FILE, help="Write the proof as JUnit XML, for CI.")
@click.option("--summary", type=_FILE, help="Write the proof as Markdown, for a pull request.")
@click.option(
    "--locate",
    is_flag=True,
    help="Where the proof fails, name the first module whose output departs.",
)
@device_option
@runtime_option
@trust_option
@json_option
def verify(model: Path, as_json: bool, **asked: Any) -> None:
    """Prove that MODEL segments like the FP32 PyTorch checkpoint it was made from.

    Runs the very file on labelled photos at every batch size that can go wrong, writes the proof
    into its manifest, and exits with 1 when the masks differ by more than the limits. Labels that
    hold no flower, or no background, give no IoU against truth: then agreement alone is proved, and
    a warning says so. With MODEL as its own reference the command shows the IoU on the photos, and
    writes no proof.
    """
    from flowerseg.artifact import open_artifact, record_proof
    from flowerseg.proof import prove
    from flowerseg.proof.checks import warnings_of

    source = open_artifact(asked["reference"])
    photos = _photos(source, asked).limited(asked["limit"])
    artifact = open_artifact(model, trust=asked["trust"])
    _require_writable(asked)
    with proof_progress() as on_batch:
        evidence = prove(
            artifact,
            source,
            photos,
            device=asked["device"],
            runtime=asked["runtime"],
            limits=_limits(artifact, asked),
            largest_batch=asked["largest_batch"],
            cuda_graph=asked["cuda_graph"],
            few_photos=asked["few_photos"],
            on_batch=on_batch,
        )
    if _is_reference_itself(artifact, source, evidence.proof):
        stderr_console().print(f"{model} is the reference itself: its manifest stays as it is.")
    else:
        record_proof(artifact, evidence.proof)
    proved = _as_proved(artifact, evidence.proof)
    warnings = warnings_of(evidence.proof)
    print_result(evidence.proof, proof_text(proved), as_json=as_json, warnings=warnings)
    _write_files(proved, evidence, photos, asked)
    if asked["locate"] and evidence.proof.status == "failed":
        _locate_fault(proved, source, photos, as_json=as_json)
    _fail_if_failed(proved, asked["report"])


def _photos(source: "Artifact", asked: Mapping[str, Any]) -> "PhotoSet":
    from flowerseg.data import open_photos
    from flowerseg.unlabelled import open_unlabelled

    data, photos, split = asked["data"], asked["photos"], asked["split"]
    if (data is None) == (photos is None):
        raise click.UsageError("Give either --data, labelled photos, or --photos, without labels.")
    if photos is None:
        return open_photos(data, "val" if split is None else split, source.manifest.rules)
    if split is not None:
        raise click.UsageError("--split is for --data: a folder of --photos has no splits.")
    return open_unlabelled(photos)


def _is_reference_itself(artifact: "Artifact", source: "Artifact", proof: "Proof") -> bool:
    """Whether a file was compared with itself in one runtime, which proves nothing about it."""
    same_bytes = artifact.manifest.sha256 == source.manifest.sha256
    return same_bytes and proof.runtime == "pytorch"


def _limits(artifact: "Artifact", asked: Mapping[str, Any]) -> "Limits":
    """The limits of the precision that is computed in, but for what was asked for."""
    from flowerseg.artifact import computed_in
    from flowerseg.proof import limits_of
    from flowerseg.proof.command import LIMIT_FIELDS

    given = {field: asked[name] for name, field in LIMIT_FIELDS.items() if asked[name] is not None}
    precision = computed_in(asked["runtime"], artifact.manifest.precision)
    return dataclasses.replace(limits_of(precision, artifact.manifest.float_type), **given)


def _as_proved(artifact: "Artifact", proof: "Proof") -> "Artifact":
    """The file with this proof alone, for those that tell of it."""
    manifest = dataclasses.replace(artifact.manifest, proof=proof, further_proofs=())
    return dataclasses.replace(artifact, manifest=manifest)


def _require_writable(asked: Mapping[str, Any]) -> None:
    """Refuse a folder that takes no file, before minutes of proving."""
    from flowerseg.files import require_writable

    for name in ("report", "junit", "summary"):
        if asked[name]:
            require_writable(asked[name].parent)


def _write_files(
    artifact: "Artifact", evidence: "Evidence", photos: "PhotoSet", asked: Mapping[str, Any]
) -> None:
    from flowerseg.proof.command import verify_command
    from flowerseg.proof.junit import write_junit
    from flowerseg.proof.report import write_due_report, write_report
    from flowerseg.proof.summary import write_summary

    command = verify_command(artifact.path, asked)
    if asked["junit"]:
        write_junit(asked["junit"], artifact, evidence.proof)
    if asked["summary"]:
        write_summary(asked["summary"], artifact, evidence.proof, command)
    if asked["report"]:
        write_report(asked["report"], evidence, artifact, photos, command)
    else:
        write_due_report(evidence, artifact, photos, command)


def _locate_fault(
    artifact: "Artifact", reference: "Artifact", photos: "PhotoSet", *, as_json: bool
) -> None:
    from flowerseg.proof.locate import locate

    stderr_console().print("looking for the fault, module by module …")
    echo(locate(artifact, reference, photos).to_text(), err=as_json)


def _fail_if_failed(artifact: "Artifact", report: Path | None) -> None:
    from flowerseg.errors import ParityError
    from flowerseg.proof.report import report_path

    proof = artifact.manifest.proof
    if proof and proof.status == "failed":
        shown = report or report_path(artifact.path)
        raise ParityError(f"{artifact.path}: not proved: {proof.why}. {shown} shows where.")


@contextmanager
def proof_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar over the photos that a proof runs; yields the callback that moves it."""
    columns = (TextColumn("proving"), BarColumn(), MofNCompleteColumn(), TextColumn("photos"))
    progress = Progress(*columns, console=stderr_console())
    task = progress.add_task("", visible=False)

    def show(done: int, photos: int) -> None:
        progress.start()  # no bar before there is something to show: the data may yet be refused
        progress.update(task, completed=done, total=photos, visible=True)

    try:
        yield show
    finally:
        progress.stop()


def proof_text(artifact: "Artifact") -> str:
    """A proof in some lines of at most _COLUMNS characters, paths excepted."""
    manifest = artifact.manifest
    proof = manifest.proof
    if proof is None or proof.limits is None:
        return f"{artifact.path}: not proved: {proof.how if proof else 'never run'}"
    head = (
        f"{artifact.path}: {_verdict(proof)} on {proof.place}, with {proof.photos} photos of "
        f"{proof.data}"
    )
    lines = [*_proof_lines(proof), *map(_further_line, manifest.further_proofs)]
    return "\n".join([head, *map(_wrapped, lines)])


def _verdict(proof: "Proof") -> str:
    from flowerseg.proof.checks import is_scored

    if proof.status != "proved":
        return "FAILED"
    verdict = "PROVED" if is_scored(proof) else "AGREEMENT PROVED"
    if proof.quantised_agreement_iou is None:
        return verdict
    # The limits of INT8 are wide: what they let pass shows along outlines.
    return f"{verdict}, IoU {proof.band_iou:.2f} along outlines,"


def _proof_lines(proof: "Proof") -> Iterator[str]:
    from flowerseg.proof.checks import checks_of, warnings_of
    from flowerseg.proof.statistics import statistics_texts
    from flowerseg.proofrecord import fault_text

    streams = f" in {proof.streams} streams" if proof.streams > 1 else ""
    yield (
        f"run photo by photo, in batches of 1 to {max(proof.batch_sizes, default=1)}, and as "
        f"folders are: batch {proof.folder_batch}{streams}"
        f"{', CUDA graph' if proof.cuda_graph else ''}"
    )
    for check in checks_of(proof):
        yield f"{check.name}: {check.found} ({check.limit})"
    yield f"{proof.flipped_pixels} of {proof.pixels} pixels change sides; {proof.how}"
    if proof.statistics is not None:
        yield from statistics_texts(proof.statistics, proof.photos)
    yield from (f"WARNING {warning}" for warning in warnings_of(proof))
    yield from (f"FAULT {fault_text(fault)}" for fault in proof.faults)


def _further_line(proof: "Proof") -> str:
    from flowerseg.proof.checks import five_digits

    if proof.status == "proved":
        return f"proved in {proof.runtime} too: agreement IoU {five_digits(proof.agreement_iou)}"
    return f"NOT proved in {proof.runtime}, which auto leaves alone: {proof.why}"


def _wrapped(line: str) -> str:
    wrapped = textwrap.fill(
        line.replace(" %", "\0%"),  # no line break before a sign
        _COLUMNS,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped.replace("\0%", " %")
