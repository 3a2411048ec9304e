"""`--inspect`: what is read from the inspector's JSON, and from a profiler, and what is refused.

TensorRT reads engines on a GPU only. The JSON is written by hand in the forms that NVIDIA's
documentation shows: "Engine Inspector" of TensorRT 10.16.1 (docs.nvidia.com/deeplearning/tensorrt/
10.16.1/inference-library/engine-tools.html), and "Migrating IEngineInspector Usage from TensorRT
10.x to 11.x" of 11.3.0. The metadata of ONNX nodes and the bytes 1E and 1F between them are what
TensorRT-RTX 1.7.1 writes into an engine.
"""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from flowerseg.artifact import Artifact, open_artifact
from flowerseg.backends.base import BackendInfo
from flowerseg_export import inspect_engine as module
from flowerseg_export.cli import export
from flowerseg_export.inspect_engine import (
    TIMED_RUNS,
    WARM_UP_RUNS,
    Layer,
    LayerTensor,
    inspect_engine,
    layers_from_json,
    median_times,
    with_times,
)
from tests.export.tensorrt_uses import problems, uses
from tests.export.test_tensorrt_surface import SURFACES

CONV = "backbone.0.0/Conv + PWN(PWN(backbone.0.2/HardSwish))"
TEN: dict[str, Any] = {
    "Name": CONV,
    "LayerType": "CaskConvolution",
    "Inputs": [
        {
            "Name": "backbone.0.0/Cast",
            "Location": "Device",
            "Dimensions": [4, 3, 64, 64],
            "Format/Datatype": "Channel major FP16 format where channel % 8 == 0",
        }
    ],
    "Outputs": [
        {
            "Name": "backbone.0.2/HardSwish",
            "Location": "Device",
            "Dimensions": [4, 16, 32, 32],
            "Format/Datatype": "Channel major FP16 format where channel % 8 == 0",
        }
    ],
    "ParameterType": "Convolution",
    "Kernel": [3, 3],
    "Weights": {"Type": "Half", "Count": 432},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc",
    "TacticValue": "0x11bde0e1d9f2f35d",
    "StreamId": 0,
    "Metadata": "[ONNX Layer: backbone.0.0/Conv]\u001e[ONNX Layer: backbone.0.2/HardSwish]",
}
ELEVEN: dict[str, Any] = {
    "Name": "__myl_MulFlooMinCast_myl0_7",
    "LayerType": "kgen",
    "Inputs": [{"Name": "p", "Dimensions": [4, 64, 64], "Format": "kLINEAR", "DataType": "Float"}],
    "Outputs": [
        {
            "Name": "foreground",
            "Dimensions": [4, 64, 64],
            "Format": "Row major linear UInt8 format (kLINEAR)",
            "DataType": "UInt8",
        }
    ],
    "TacticName": "__myl_MulFlooMinCast_0xabc",
    "Metadata": "[ONNX Layer: Mul]\u001f[ONNX Layer: classifier.4/Conv]\u001f[ONNX Layer: Mul]",
}
IO = [{"Name": "images", "IOMode": "Input", "DataType": "UInt8", "Location": "Device"}]


def _layers(*entries: Any, **rest: Any) -> tuple[list[Layer], dict[str, Any]]:
    return layers_from_json(json.dumps({"Layers": list(entries), **rest}))


# The JSON.


def test_layer_of_tensorrt_10_is_read_with_its_torch_modules() -> None:
    (layer,), other = _layers(TEN, Bindings=["images", "foreground"])
    nhwc = "Channel major FP16 format where channel % 8 == 0"
    assert (layer.name, layer.kind, layer.tactic) == (CONV, "CaskConvolution", TEN["TacticName"])
    assert [dataclasses.asdict(tensor) for tensor in layer.inputs] == [
        {
            "name": "backbone.0.0/Cast",
            "data_type": "",
            "format": nhwc,
            "dimensions": (4, 3, 64, 64),
        }
    ]
    assert str(layer.outputs[0]) == nhwc
    assert layer.onnx_nodes == ("backbone.0.0/Conv", "backbone.0.2/HardSwish")
    assert layer.modules == ("backbone.0.0", "backbone.0.2")
    assert other == {"Bindings": ["images", "foreground"]}


def test_layer_of_tensorrt_11_has_its_type_apart_from_its_format() -> None:
    (layer,), other = _layers(ELEVEN, **{"I/O Tensors": IO})
    (output,) = layer.outputs
    assert output == LayerTensor(
        "foreground", "UInt8", "Row major linear UInt8 format (kLINEAR)", (4, 64, 64)
    )
    assert layer.onnx_nodes == ("Mul", "classifier.4/Conv")
    assert layer.modules == ("classifier.4",)  # Mul is of the network itself
    assert other == {"I/O Tensors": IO}


def test_fields_that_are_not_known_are_kept() -> None:
    (layer,), _ = _layers(TEN | {"Inputs": "of another form", "Novelty": {"a": [1]}})
    assert layer.inputs == ()
    assert layer.other == {
        "Inputs": "of another form",
        "Novelty": {"a": [1]},
        **{
            name: TEN[name]
            for name in (
                "ParameterType", "Kernel", "Weights", "TacticValue", "StreamId", "Metadata",
            )
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        (CONV, ("backbone.0.0", "backbone.0.2")),
        ("Reformatting CopyNode for Input Tensor 0 to classifier.1/Conv", ("classifier.1",)),
        (
            "{ForeignNode[backbone.0.0/Cast...classifier.4/Conv_2]}",
            ("backbone.0.0", "classifier.4"),
        ),
        ("__myl_CastTran_myl0_1", ()),
        ("Resize + Sigmoid", ()),
    ],
)
def test_names_alone_lead_to_torch_modules_too(name: str, modules: tuple[str, ...]) -> None:
    """In an engine that was built with layer names only, and in layers without metadata."""
    (layer, detailed), _ = _layers(name, {"Name": name, "LayerType": "Reformat"})
    assert (layer.name, layer.modules, layer.kind) == (name, modules, "")
    assert (detailed.name, detailed.modules, detailed.kind) == (name, modules, "Reformat")


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("not JSON", {"text": "not JSON"}),
        ('["a"]', {"content": ["a"]}),
        ('{"Layers": {}}', {"content": {"Layers": {}}}),
    ],
)
def test_text_of_another_form_is_kept_whole(text: str, other: dict[str, Any]) -> None:
    assert layers_from_json(text) == ([], other)


def test_entry_that_is_no_layer_is_shown_as_it_is() -> None:
    (layer,), _ = _layers([1, 2])
    assert layer == Layer("[1, 2]")


# Times.


def test_time_of_a_layer_is_its_median_over_the_runs() -> None:
    runs = [{"a": 3.0, "b": 1.0}, {"a": 1.0}, {"a": 2.0}]
    assert median_times(runs) == {"a": 2.0, "b": 1.0}
    assert median_times([]) == {}


def test_times_and_layers_that_do_not_meet_are_both_shown() -> None:
    timed = with_times([Layer("a"), Layer("a"), Layer("c")], {"a": 2.0, "b.1/Conv": 1.0})
    assert [(layer.name, layer.time_ms) for layer in timed] == [
        ("a", 2.0),
        ("a", None),
        ("c", None),
        ("b.1/Conv", 1.0),
    ]
    assert timed[-1].modules == ("b.1",)


# The whole, with a stand-in for TensorRT.


class _Profiler:
    """Stands in for `IProfiler`."""


class _Gpu:
    """An engine whose layers take as many ms as the run's number, plus 100 for the second one."""

    info = BackendInfo("tensorrt", "11.4.0", "cuda:0", "NVIDIA A100", "fp16", (64, 64), None)

    def __init__(self) -> None:
        self.text = json.dumps({"Layers": [TEN, ELEVEN], "I/O Tensors": IO})
        self.text_of_context: str | None = None
        self.context_ = SimpleNamespace(profiler=None)
        self.batches: list[tuple[int, ...]] = []
        self.reports = True

    @property
    def handle(self) -> "_Gpu":
        return self

    def context(self) -> Any:
        return self.context_

    def create_engine_inspector(self) -> Any:
        inspector = SimpleNamespace(execution_context=None)

        def information(form: str) -> str:
            assert form == "json"
            if inspector.execution_context is not None and self.text_of_context is not None:
                return self.text_of_context
            return self.text

        inspector.get_engine_information = information
        return inspector

    def run(self, _: object, frames: np.ndarray) -> None:
        assert frames.dtype == np.uint8
        assert len(np.unique(frames)) == 256
        self.batches.append(frames.shape)
        for index, layer in enumerate((TEN, ELEVEN) if self.reports else ()):
            time_ms = float(len(self.batches) + 100 * index)
            self.context_.profiler.report_layer_time(layer["Name"], time_ms)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> _Gpu:
    found = _Gpu()
    trt = SimpleNamespace(
        __name__="tensorrt",
        __version__="11.4.0",
        IProfiler=_Profiler,
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )
    monkeypatch.setattr(module, "import_tensorrt", lambda _: trt)
    monkeypatch.setattr(module, "Engine", lambda *_: found)
    monkeypatch.setattr(module, "TensorRTBackend", lambda *_, **__: found)
    monkeypatch.setattr(module, "run", found.run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    return found


def _inspect(engine: Artifact, *options: str) -> Result:
    return CliRunner().invoke(export, [str(engine.path), "--inspect", *options])


MEDIAN = WARM_UP_RUNS + (TIMED_RUNS + 1) / 2  # of the numbers of the timed runs


def test_table_has_layers_with_times_kernels_and_modules(gpu: _Gpu, rtx_engine: Artifact) -> None:
    result = _inspect(rtx_engine)
    assert result.exit_code == 0, result.output
    assert gpu.batches == [(4, 64, 64, 3)] * (WARM_UP_RUNS + TIMED_RUNS)
    head, total, _, columns, conv, last, _, rest = result.stdout.splitlines()
    assert head == f"{rtx_engine.path}: 2 layers, {gpu.info}"
    assert total.startswith(f"batch 4: {2 * MEDIAN + 100:.3f} ms in layers")
    assert columns.split() == ["ms", "share", "type", "output", "torch", *columns.split()[5:]]
    assert conv.startswith(f"{MEDIAN:.4f} ")
    for word in ("CaskConvolution", "backbone.0.0, backbone.0.2", TEN["TacticName"], CONV):
        assert word in conv
    assert "UInt8 Row major linear" in last
    assert rest == f"I/O Tensors: {json.dumps(IO)}"


def test_json_has_the_same_and_more(gpu: _Gpu, rtx_engine: Artifact) -> None:
    result = _inspect(rtx_engine, "--json", "--batch", "2")
    report = json.loads(result.stdout)
    assert (report["batch"], report["timed_runs"]) == (2, TIMED_RUNS)
    assert gpu.batches[0] == (2, 64, 64, 3)
    first = report["layers"][0]
    assert first["time_ms"] == MEDIAN
    assert first["modules"] == ["backbone.0.0", "backbone.0.2"]
    assert first["other"]["TacticValue"] == "0x11bde0e1d9f2f35d"


def test_engine_of_layer_names_says_how_to_get_more(gpu: _Gpu, rtx_engine: Artifact) -> None:
    gpu.text = json.dumps({"Layers": [TEN["Name"], ELEVEN["Name"]], "Bindings": []})
    result = _inspect(rtx_engine)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "holds the names of its layers only. Rebuild it from small.onnx beside it" in said
    assert f"{MEDIAN:.4f}" in result.stdout


def test_context_that_tells_nothing_is_replaced_by_the_engine_with_words(
    gpu: _Gpu, rtx_engine: Artifact
) -> None:
    gpu.text_of_context = ""
    result = _inspect(rtx_engine)
    assert "formats are those of the engine alone" in result.stderr
    assert TEN["TacticName"] in result.stdout


def test_layers_without_times_are_listed_with_words(gpu: _Gpu, rtx_engine: Artifact) -> None:
    gpu.reports = False
    notices: list[str] = []
    report = inspect_engine(rtx_engine, on_notice=notices.append)
    assert [layer.time_ms for layer in report.layers] == [None, None]
    assert notices == [f"{rtx_engine.path}: TensorRT reported no times of layers"]
    assert "ms in layers" not in str(report)


# What is refused.


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("options", "why"),
    [([], "torch sees none here"), (["--device", "cpu"], "--device cpu names none")],
)
def test_machine_without_a_gpu_is_told_what_the_manifest_knows(
    rtx_engine: Artifact, options: list[str], why: str
) -> None:
    result = _inspect(rtx_engine, *options)
    assert result.exit_code == 1
    assert f"lists the layers of an engine on a GPU only, and {why}" in result.stderr
    version = rtx_engine.manifest.versions["tensorrt-rtx"]
    assert (
        f"The manifest says: deeplabv3_mobilenet_v3_large in fp16; batches of 1:4:8; tensorrt-rtx "
        f"{version}; for NVIDIA RTX, Turing or later."
    ) in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--batch", "9"], 1, "--batch 9; the engine takes 1 to 8"),
        (["--batch", "1:4:8"], 2, "'1:4:8' is not one number of photos"),
        (["--batch", "0"], 2, "'0' is not one number of photos"),
        (["--batch", "1", "--batch", "2"], 2, "'1 2' is not one number of photos"),
        (["--out", "a.engine"], 2, "leave --out out"),
        (["--to", "onnx"], 2, "leave --to out"),
        (["--force"], 2, "leave --force out"),
        (["--data", "photos"], 2, "leave --data out"),
        (["--refit", "a.engine"], 2, "leave --refit out"),
        (["--triton", "models"], 2, "leave --triton out"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    gpu: _Gpu, rtx_engine: Artifact, options: list[str], code: int, said: str
) -> None:
    result = _inspect(rtx_engine, *options)
    assert result.exit_code == code
    assert said in result.stderr
    assert gpu.batches == []


def test_only_engines_are_inspected(fp16_onnx: Artifact) -> None:
    result = _inspect(fp16_onnx)
    assert result.exit_code == 1
    assert "a file of kind onnx; --inspect lists the layers of TensorRT engines" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_rtx_reads_no_engine_without_a_gpu(rtx_engine: Artifact) -> None:
    """The reason for the refusal, with the real library: should it change, inspect on CPUs too."""
    import tensorrt_rtx as trt

    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    assert runtime.deserialize_cuda_engine(rtx_engine.path.read_bytes()) is None


# The API of each version, and the real thing.


@pytest.mark.parametrize("version", SURFACES)
def test_calls_are_held_against_every_version(version: str) -> None:
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert {
        "IProfiler.report_layer_time",
        "LayerInformationFormat.JSON",
        "?.create_engine_inspector",
        "?.profiler",
    } <= {use.name for use in uses(source, SURFACES[version])}
    assert problems(source, SURFACES[version]) == []
    assert problems(source.replace("report_layer_time", "report_time"), SURFACES[version])


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_layers_of_a_real_engine_lead_to_the_network(fp16_onnx: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "a.engine"
    build = ["--to", "tensorrt", "--batch", "1:2:4", "--out", str(out)]
    assert CliRunner().invoke(export, [str(fp16_onnx.path), *build]).exit_code == 0
    report = inspect_engine(open_artifact(out))
    nodes = {node.name for node in onnx.load(fp16_onnx.path).graph.node}
    assert report.has_details
    assert report.total_ms is not None
    assert report.total_ms > 0
    found = {node for layer in report.layers for node in layer.onnx_nodes}
    assert found <= nodes
    # Constants and casts may vanish, convolutions do not.
    assert {node for node in nodes if node.endswith("/Conv")} <= found
