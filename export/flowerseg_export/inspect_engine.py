"""What an engine runs: its layers, their kernels, formats and times, and the torch modules."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

from flowerseg.artifact import Artifact, Manifest
from flowerseg.backends.base import run
from flowerseg.backends.device import resolve_device
from flowerseg.backends.gpucache import OnNotice, print_notice
from flowerseg.backends.trt import Engine, TensorRTBackend, engine_advice, import_tensorrt
from flowerseg.errors import BackendUnavailable, ExportError
from flowerseg_export.config import ENGINES

WARM_UP_RUNS = 5
TIMED_RUNS = 20

_COLUMNS = ("ms", "share", "type", "output", "torch modules", "kernel", "layer")

# "[ONNX Layer: a]", with the bytes 1E or 1F between several: TensorRT-RTX 1.7.1 writes both.
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
# `backbone.layer1.0.conv1/Conv`, as tidy.py names nodes, anywhere in the name of a fused layer.
_NODE_IN_NAME = re.compile(r"[\w.]+/[A-Z]\w*")


@dataclass(frozen=True)
class LayerTensor:
    """An input or output of a layer. What TensorRT does not say is empty."""

    name: str = ""
    data_type: str = ""  # "Half"; TensorRT 10 puts it into `format`
    format: str = ""  # "Channel major FP16 format where channel % 8 == 0", for example
    dimensions: tuple[int, ...] = ()

    def __str__(self) -> str:
        return " ".join(word for word in (self.data_type, self.format) if word)


@dataclass(frozen=True)
class Layer:
    """A layer of an engine. What TensorRT does not say is empty."""

    name: str
    kind: str = ""  # TensorRT's LayerType: "CaskConvolution", "kgen", …
    inputs: tuple[LayerTensor, ...] = ()
    outputs: tuple[LayerTensor, ...] = ()
    tactic: str = ""  # the kernel
    onnx_nodes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()  # torch modules that the nodes come from
    time_ms: float | None = None  # median over the timed runs
    other: Mapping[str, Any] = field(default_factory=dict)  # further fields, as TensorRT has them


@dataclass(frozen=True)
class EngineReport:
    """What an engine runs at one batch size."""

    engine: str
    runtime: str
    batch: int
    timed_runs: int
    layers: tuple[Layer, ...]
    other: Mapping[str, Any]  # what TensorRT says about the engine as a whole

    @property
    def has_details(self) -> bool:
        """Whether the engine holds more than names of its layers."""
        return any(layer.kind for layer in self.layers)

    @property
    def total_ms(self) -> float | None:
        """The sum of all layers' times; None where no layer was timed."""
        times = [layer.time_ms for layer in self.layers if layer.time_ms is not None]
        return sum(times) if times else None

    def __str__(self) -> str:
        return report_text(self)


def inspect_engine(
    artifact: Artifact,
    device: str = "auto",
    batch: int | None = None,
    on_notice: OnNotice = print_notice,
) -> EngineReport:
    """List the layers of an engine, with the time of each on this GPU.

    Times are of noise frames; a network's time does not depend on what a photo shows. A profiler
    keeps layers apart, so that their sum is more than the latency that flowerseg-bench measures.

    Args:
        artifact: an engine.
        device: `auto`, `cuda` or `cuda:N`.
        batch: photos in a batch; None is the size that the engine is tuned for.
        on_notice: called with a line about what TensorRT does not say.

    Raises:
        ExportError: no engine, or a batch that it does not take.
        BackendUnavailable: the module or a GPU is missing.
        ArtifactError: the engine was built for something else.
    """
    size = _batch_size(artifact, batch)
    _require_gpu(artifact, device)
    trt = import_tensorrt(artifact.manifest.kind)
    engine = Engine(artifact, device, on_notice)
    timer = _layer_timer(trt)
    context = engine.context()
    _attach(context, timer)
    _time_layers(TensorRTBackend(engine, context=context), timer.start_run, size)
    text = _information(trt, engine.handle, context, on_notice)
    layers, other = layers_from_json(text)
    times = median_times(timer.runs[WARM_UP_RUNS:])
    if not times:
        on_notice(f"{artifact.path}: TensorRT reported no times of layers")
    timed = with_times(layers, times)
    report = EngineReport(
        str(artifact.path), str(engine.info), size, TIMED_RUNS, tuple(timed), other
    )
    if not report.has_details:
        on_notice(
            f"{artifact.path}: the engine holds the names of its layers only. "
            f"{engine_advice(artifact)}"
        )
    return report


def layers_from_json(text: str) -> tuple[list[Layer], dict[str, Any]]:
    """Layers, and what else there is, from what `EngineInspector` says in JSON.

    An engine that was built with layer names only has strings in place of layers. Fields that are
    not known here stay in `other`, and so does a whole text that is not of this form.

    Source: TensorRT's documentation, "Engine Inspector" of 10.16.1 for the fields of a layer, and
    "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x" of 11.3.0 for `I/O Tensors`,
    `Format` and `DataType`.
    """
    try:
        content = json.loads(text)
    except ValueError:
        return [], {"text": text}
    if not isinstance(content, dict) or not isinstance(content.get("Layers"), list):
        return [], {"content": content}
    other = {name: value for name, value in content.items() if name != "Layers"}
    return [_layer(entry) for entry in content["Layers"]], other


def median_times(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median time in ms of each layer, by its name, over the runs that report it."""
    names = dict.fromkeys(name for times in runs for name in times)
    return {name: median(times[name] for times in runs if name in times) for name in names}


def with_times(layers: Iterable[Layer], times: Mapping[str, float]) -> list[Layer]:
    """Layers with their times. A time whose layer is not listed becomes a layer of its own."""
    left = dict(times)
    # A name that several layers have is timed once: the profiler tells no more than the name.
    timed = [dataclasses.replace(layer, time_ms=left.pop(layer.name, None)) for layer in layers]
    return timed + [
        dataclasses.replace(_layer(name), time_ms=time_ms) for name, time_ms in left.items()
    ]


def report_text(report: EngineReport) -> str:
    """The report as a table."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    rows += [_row(layer, report.total_ms) for layer in report.layers]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    head = [f"{report.engine}: {len(report.layers)} layers, {report.runtime}"]
    if report.total_ms is not None:
        head.append(
            f"batch {report.batch}: {report.total_ms:.3f} ms in layers, medians of "
            f"{report.timed_runs} runs under TensorRT's profiler; flowerseg-bench measures latency"
        )
    rest = [f"{name}: {json.dumps(value)}" for name, value in report.other.items()]
    return "\n".join([*head, "", *lines, *([""] if rest else []), *rest])


def _row(layer: Layer, total_ms: float | None) -> tuple[str, ...]:
    has_time = layer.time_ms is not None and total_ms
    return (
        f"{layer.time_ms:.4f}" if layer.time_ms is not None else "-",
        f"{100 * (layer.time_ms or 0) / (total_ms or 1):.1f} %" if has_time else "-",
        layer.kind or "-",
        ", ".join(dict.fromkeys(map(str, layer.outputs))) or "-",
        ", ".join(layer.modules) or "-",
        layer.tactic or "-",
        layer.name,
    )


def _layer(entry: Any) -> Layer:
    """A layer from its JSON: an object, a name alone, or something that is shown as it is."""
    if not isinstance(entry, dict):
        name = entry if isinstance(entry, str) else json.dumps(entry)
        return Layer(name, modules=_modules(_nodes_in_name(name)))
    left = dict(entry)
    name = str(left.pop("Name", ""))
    nodes = tuple(dict.fromkeys(_ONNX_NODE.findall(str(left.get("Metadata", "")))))
    return Layer(
        name=name,
        kind=str(left.pop("LayerType", "")),
        inputs=_tensors(left, "Inputs"),
        outputs=_tensors(left, "Outputs"),
        tactic=str(left.pop("TacticName", "")),
        onnx_nodes=nodes,
        modules=_modules(nodes or _nodes_in_name(name)),
        other=left,
    )


def _tensors(layer: dict[str, Any], name: str) -> tuple[LayerTensor, ...]:
    """Take the inputs or outputs out of a layer's fields; what is no list stays there."""
    entries = layer.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return ()
    del layer[name]
    return tuple(
        LayerTensor(
            name=str(entry.get("Name", "")),
            data_type=str(entry.get("DataType", "")),
            format=str(entry.get("Format/Datatype", entry.get("Format", ""))),
            dimensions=tuple(entry.get("Dimensions", ())),
        )
        for entry in entries
    )


def _nodes_in_name(name: str) -> tuple[str, ...]:
    """ONNX nodes in the name of a layer whose metadata names none: `a/Conv + PWN(b/Relu)`.

    A range such as `{ForeignNode[a/Cast...b/Cast]}` names its ends only.
    """
    return tuple(node.strip(".") for node in _NODE_IN_NAME.findall(name))


def _modules(nodes: Iterable[str]) -> tuple[str, ...]:
    """`backbone.0.0/Conv` -> `backbone.0.0`; nodes of the network itself have no module."""
    owners = (node.rpartition("/")[0] for node in nodes)
    return tuple(dict.fromkeys(owner for owner in owners if owner))


def _batch_size(artifact: Artifact, batch: int | None) -> int:
    manifest = artifact.manifest
    if manifest.kind not in ENGINES:
        raise ExportError(
            f"{artifact.path}: a file of kind {manifest.kind}; --inspect lists the layers of "
            "TensorRT engines."
        )
    takes = manifest.batch
    size = batch or (takes.opt if takes else 1)
    if takes and not takes.min <= size <= takes.max:
        raise ExportError(
            f"{artifact.path}: --batch {size}; the engine takes {takes.min} to {takes.max}."
        )
    return size


def _require_gpu(artifact: Artifact, device: str) -> None:
    """TensorRT and TensorRT-RTX 1.7.1 read an engine only where a GPU is (tried)."""
    if resolve_device(device) != "cpu":
        return
    missing = "torch sees none here" if device == "auto" else f"--device {device} names none"
    raise BackendUnavailable(
        f"{artifact.path}: TensorRT lists the layers of an engine on a GPU only, and {missing}. "
        f"The manifest says: {_summary(artifact.manifest)}."
    )


def _summary(manifest: Manifest) -> str:
    made = manifest.built_for
    facts = [
        f"{manifest.architecture} in {manifest.precision}",
        f"batches of {', '.join(map(str, manifest.ranges)) or 'any size'}",
        f"{manifest.kind} {manifest.versions.get(manifest.kind, 'of unknown version')}",
        f"for {made.gpu or 'any GPU'}" if made else "",
        f"compute capability {made.compute_capability}" if made and made.compute_capability else "",
    ]
    return "; ".join(fact for fact in facts if fact)


def _layer_timer(trt: ModuleType) -> Any:
    """A profiler that keeps the times of each run by the names of layers."""

    class Timer(trt.IProfiler):  # type: ignore[name-defined,misc]  # chosen at run time
        def __init__(self) -> None:
            super().__init__()
            self.runs: list[dict[str, float]] = []

        def start_run(self) -> None:
            self.runs.append({})

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times = self.runs[-1]
            times[layer_name] = times.get(layer_name, 0.0) + ms

    return Timer()


def _attach(context: Any, timer: Any) -> None:
    # Enqueueing then waits for the batch and reports before it returns (`enqueue_emits_profile`).
    context.profiler = timer


def _time_layers(backend: TensorRTBackend, start_run: Callable[[], None], size: int) -> None:
    noise = np.random.default_rng(0)
    frames = noise.integers(0, 256, (size, *backend.info.size_hw, 3), np.uint8)
    for _ in range(WARM_UP_RUNS + TIMED_RUNS):
        start_run()
        run(backend, frames)


def _information(trt: ModuleType, engine: Any, context: Any, on_notice: OnNotice) -> str:
    """The engine's layers as JSON, with formats of the context's batch where TensorRT has them."""
    inspector = engine.create_engine_inspector()
    if inspector is None:
        raise BackendUnavailable(
            f"{trt.__name__} {trt.__version__} makes no inspector; its lines on stderr say why."
        )
    form = trt.LayerInformationFormat.JSON
    inspector.execution_context = context
    text = inspector.get_engine_information(form)
    if not text:
        # Seen with engines on GPUs of the Blackwell generation (pytorch/TensorRT).
        on_notice("TensorRT says nothing about the context; formats are those of the engine alone")
        text = engine.create_engine_inspector().get_engine_information(form)
    return str(text or "")
