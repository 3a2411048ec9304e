"""`flowerseg-export`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from flowerseg.cli.options import (
    Command,
    device_option,
    few_photos_option,
    json_option,
    print_result,
    stderr_console,
    trust_option,
)
from flowerseg.cli.terminal import description_column, echo
from flowerseg.cli.verify import proof_progress, proof_text
from flowerseg.printable import printable

if TYPE_CHECKING:
    from flowerseg.artifact import Artifact, Batch, EngineBuild, Manifest
    from flowerseg_export.config import ExportConfig
    from flowerseg_export.engine import OnProgress

F = TypeVar("F", bound=Callable[..., Any])

TARGETS = ["onnx", "tensorrt", "tensorrt-rtx", "pt2", "checkpoint"]
# What --rebuild takes from the engine's manifest, and so nobody may say again.
_FROM_MANIFEST = (
    "out", "target", "fp16", "int8", "tf32", "keep_fp32", "repair", "calibration", "batch",
    "workspace", "optimisation_level", "hardware_compatible", "version_compatible", "refittable",
    "compute_capability",
)  # fmt: skip


def engine_options(command: F) -> F:
    """Options of TensorRT's builder."""
    options = [
        click.option(
            "--batch",
            multiple=True,
            default=["1:8:64"],
            show_default=True,
            metavar="MIN:OPT:MAX",
            help="Batch sizes that an engine takes; it is tuned for OPT. Repeatable, smallest "
            "first: each is an optimisation profile with kernels of its own.",
        ),
        click.option("--tf32", is_flag=True, help="TensorRT: compute FP32 in TF32, and say so."),
        click.option(
            "--workspace",
            type=click.IntRange(min=1),
            metavar="MIB",
            help="Most memory that a layer may use while it runs. Default: all there is.",
        ),
        click.option(
            "--optimisation-level",
            type=click.IntRange(0, 5),
            help="How long the builder looks for fast kernels. Default: TensorRT's own, 3.",
        ),
        click.option(
            "--hardware-compatible",
            type=click.Choice(["ampere+", "same-compute-capability"]),
            help="An engine that other GPUs run too, somewhat slower.",
        ),
        click.option(
            "--version-compatible",
            is_flag=True,
            help="An engine that newer TensorRT versions run too.",
        ),
        click.option(
            "--refittable", is_flag=True, help="An engine whose weights can be replaced later."
        ),
        click.option(
            "--compute-capability",
            multiple=True,
            metavar="MAJOR.MINOR",
            help="TensorRT-RTX: build for this one, 8.9 for example. Repeatable. Default: all.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(TARGETS), default="onnx", show_default=True)
@click.option("--fp16", is_flag=True, help="Type the network in half precision, in the graph.")
@click.option(
    "--int8",
    is_flag=True,
    help="Quantise with Q/DQ nodes, calibrated on --data. For engines also with --fp16: what is "
    "not quantised computes in half.",
)
@click.option(
    "--keep-fp32",
    multiple=True,
    metavar="MODULE",
    help="Leave a module out of --fp16 or --int8, by its name or a glob. Repeatable.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="With --fp16: keep in FP32 the least set of modules that passes on --data.",
)
@click.option(
    "--calibration",
    type=click.Choice(["minmax", "percentile"]),
    default="minmax",
    show_default=True,
    help="How --int8 takes ranges from the photos.",
)
@engine_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file; FILE.json goes beside. Required."
)
@click.option(
    "--rebuild",
    is_flag=True,
    help="SOURCE is an engine: build it again for this machine from the ONNX file beside it.",
)
@click.option(
    "--refit",
    type=click.Path(path_type=Path),
    metavar="ENGINE",
    help="Give the weights of SOURCE, a checkpoint, to this refittable engine instead of building "
    "one; precision and batch sizes are the engine's. --out ENGINE --force refits in place.",
)
@click.option(
    "--inspect",
    is_flag=True,
    help="SOURCE is an engine: list its layers, their kernels, formats and times, and the torch "
    "modules that they come from. --batch N: photos in a batch; default: the engine's OPT. Writes "
    "nothing.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="The checkpoint to prove against, where SOURCE is an ONNX file or an engine.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled photos for the proof (and INT8's calibration). Without them nothing is proved.",
)
@click.option("--split", default="val", show_default=True, help="Photos that prove.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=64, show_default=True, help="At most so many."
)
@few_photos_option
@click.option(
    "--triton",
    type=click.Path(path_type=Path),
    metavar="REPOSITORY",
    help="Put the file into this Triton model repository too, with its config.pbtxt.",
)
@click.option("--unproven", is_flag=True, help="Let --triton take a file that is not proved.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@device_option
@trust_option
@json_option
@click.pass_context
def export(
    ctx: click.Context, /, triton: Path | None, unproven: bool, as_json: bool, **requested: Any
) -> None:
    """Write the deployable model of SOURCE with its manifest, and prove it.

    SOURCE is a checkpoint of flowerseg-train; an engine can be built from an exported ONNX file
    too. The graph takes uint8 RGB frames (N, H, W, 3) and gives uint8 probabilities (N, H, W);
    cast, normalisation, upsampling and sigmoid are inside. An engine keeps the ONNX file that it
    was built from beside it. checkpoint --fp16 is a copy of half the size, to be shipped or
    trained on.
    """
    from flowerseg.artifact import require_proof
    from flowerseg_export.export import Listener, export_model
    from flowerseg_export.triton import refuse_unservable, write_triton

    if requested["inspect"]:
        _inspect(ctx, requested, as_json=as_json)
        return
    config = _requested_config(ctx, requested)
    if triton:
        refuse_unservable(config.target, config.out, config.batch, triton, force=config.force)
        _refuse_unprovable(config, unproven=unproven)
    console = stderr_console()
    with proof_progress() as on_batch, build_progress() as on_progress:
        listener = Listener(
            lambda stage: console.print(f"{stage} …"),
            on_progress,
            on_batch,
            lambda repaired: echo(str(repaired), err=as_json),
        )
        written = export_model(config, listener)
    if as_json:
        _print_json(written[-1].manifest)
    else:
        echo("\n".join(f"{proof_text(a)}\n  {_size(a.path)}" for a in written))
    _fail_on_failed_proof(written)
    if triton:
        require_proof(written[-1], allow_unproven=unproven)
        console.print(f"for Triton: {write_triton(written[-1], triton, force=config.force)}")


def _print_json(manifest: "Manifest") -> None:
    """The manifest on stdout; what its proof's caveats say goes to stderr in words."""
    from flowerseg.proof.checks import warnings_of

    echo(manifest.to_json(), nl=False)
    for warning in warnings_of(manifest.proof) if manifest.proof else []:
        stderr_console().print(f"WARNING {warning}")


def _requested_config(ctx: click.Context, requested: dict[str, Any]) -> "ExportConfig":
    if requested["refit"]:
        return _refit_config(ctx, requested)
    return _rebuild_config(ctx, requested) if requested["rebuild"] else _config(requested)


def _config(requested: dict[str, Any]) -> "ExportConfig":
    """The requested export; wrong usage is exit code 2."""
    from flowerseg.artifact import Kind, Precision
    from flowerseg_export.config import ExportConfig
    from flowerseg_export.int8 import Calibration

    _require_out(requested)
    chosen = [Precision(name) for name in ("int8", "fp16", "tf32") if requested[name]]
    is_int8_with_half = chosen == [Precision.INT8, Precision.FP16]
    if len(chosen) > 1 and not is_int8_with_half:
        raise click.UsageError(f"--{chosen[-2]} and --{chosen[-1]} exclude each other.")
    same = ("source", "out", "reference", "data", "split", "limit", "few_photos", "device", "force")
    try:
        return ExportConfig(
            **{name: requested[name] for name in same},
            target=Kind(requested["target"]),
            precision=chosen[0] if chosen else Precision.FP32,
            float_type=Precision.FP16 if is_int8_with_half else Precision.FP32,
            profiles=tuple(_batch(text) for text in requested["batch"]),
            build=_engine_build(requested),
            keep_fp32=requested["keep_fp32"],
            repair=requested["repair"],
            calibration=Calibration(requested["calibration"]),
        )
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def _rebuild_config(ctx: click.Context, requested: dict[str, Any]) -> "ExportConfig":
    from flowerseg_export.config import config_to_rebuild

    given = _given_options(ctx, _FROM_MANIFEST)
    if given:
        raise click.UsageError(
            f"--rebuild takes --{given[0]} from the engine's manifest. Leave it out, or build a "
            "new engine from the ONNX file."
        )
    proof = ("reference", "data", "split", "limit", "few_photos", "device")
    return config_to_rebuild(requested["source"], **{name: requested[name] for name in proof})


def _refit_config(ctx: click.Context, requested: dict[str, Any]) -> "ExportConfig":
    from flowerseg_export.refit import config_to_refit

    given = _given_options(
        ctx, [*(name for name in _FROM_MANIFEST if name != "out"), "rebuild", "reference"]
    )
    if given:
        raise click.UsageError(
            f"--refit takes everything but the weights from the engine: leave --{given[0]} out, or "
            "build a new engine."
        )
    _require_out(requested)
    proof = ("data", "split", "limit", "few_photos", "device", "force", "trust")
    return config_to_refit(
        requested["source"],
        requested["refit"],
        requested["out"],
        **{name: requested[name] for name in proof},
    )


def _inspect(ctx: click.Context, requested: dict[str, Any], *, as_json: bool) -> None:
    from flowerseg.artifact import open_artifact
    from flowerseg_export.inspect_engine import inspect_engine

    used = {"source", "inspect", "batch", "device", "as_json", "trust"}
    given = _given_options(ctx, [name for name in ctx.params if name not in used])
    if given:
        raise click.UsageError(
            f"--inspect writes nothing and takes --batch N, --device and --json only: leave "
            f"--{given[0]} out."
        )
    batch = _inspected_batch(requested["batch"]) if _given_options(ctx, ["batch"]) else None
    console = stderr_console()
    report = inspect_engine(
        open_artifact(requested["source"], trust=requested["trust"]),
        requested["device"],
        batch,
        lambda line: console.print(line),
    )
    print_result(report, str(report), as_json=as_json)


def _inspected_batch(texts: Sequence[str]) -> int:
    if len(texts) == 1 and texts[0].isdigit() and int(texts[0]) > 0:
        return int(texts[0])
    raise click.BadParameter(
        f"{' '.join(texts)!r} is not one number of photos, which --inspect takes",
        param_hint="--batch",
    )


def _given_options(ctx: click.Context, names: Iterable[str]) -> list[str]:
    """The options among these parameters that were given on the command line."""
    given = [n for n in names if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    return [{"target": "to", "as_json": "json"}.get(n, n).replace("_", "-") for n in given]


def _require_out(requested: dict[str, Any]) -> None:
    if requested["out"] is None:
        raise click.UsageError("--out FILE is missing.")


def _engine_build(requested: dict[str, Any]) -> "EngineBuild":
    from flowerseg.artifact import EngineBuild, Hardware

    return EngineBuild(
        workspace_mib=requested["workspace"],
        optimisation_level=requested["optimisation_level"],
        hardware=Hardware(requested["hardware_compatible"] or "same"),
        version_compatible=requested["version_compatible"],
        refittable=requested["refittable"],
        compute_capabilities=requested["compute_capability"],
    )


def _batch(text: str) -> "Batch":
    from flowerseg.artifact import Batch

    try:
        low, best, high = (int(part) for part in text.split(":"))
        return Batch(low, best, high)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX", param_hint="--batch"
        ) from error


def _refuse_unprovable(config: "ExportConfig", *, unproven: bool) -> None:
    if config.data is None and not unproven:
        raise click.UsageError("--triton takes proved files: give --data, or say --unproven.")


def _fail_on_failed_proof(written: list["Artifact"]) -> None:
    from flowerseg.errors import ParityError
    from flowerseg.proof.report import report_path

    for artifact in written:
        proof = artifact.manifest.proof
        if proof and proof.status == "failed":
            raise ParityError(
                f"{artifact.path}: written, but not proved: {proof.why}. "
                f"{report_path(artifact.path)} shows where."
            )


@contextmanager
def build_progress() -> Iterator["OnProgress"]:
    """Bars over the phases of TensorRT's builder; yields the callback that moves them."""
    columns = (description_column(), BarColumn(), MofNCompleteColumn())
    console = stderr_console()
    progress = Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # gone when it is done, so nothing for a log
    )
    tasks: dict[str, Any] = {}

    def show(phase: str, done: int, steps: int) -> None:
        progress.start()
        if phase not in tasks:
            tasks[phase] = progress.add_task(printable(phase), total=steps)
        progress.update(tasks[phase], completed=done, total=steps)
        if done >= steps:
            progress.remove_task(tasks.pop(phase))

    try:
        yield show
    finally:
        progress.stop()


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
