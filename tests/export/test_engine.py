"""Real TensorRT-RTX engines, built without a GPU, and what is said when there is none to build."""

import importlib
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from flowerseg.artifact import (
    Artifact,
    Batch,
    EngineBuild,
    Hardware,
    Kind,
    Precision,
    open_artifact,
)
from flowerseg.errors import BackendUnavailable, ExportError
from flowerseg_export import engine as engine_module
from flowerseg_export.engine import built_for, engine_from_onnx

SIZE_HW = (64, 64)
BATCH = Batch(1, 4, 8)


@pytest.fixture(scope="module")
def fp32_engine(fp32_onnx: Artifact) -> bytes:
    return engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, BATCH)


def test_fp32_engine_is_built(fp32_engine: bytes, fp32_onnx: Artifact) -> None:
    assert len(fp32_engine) > 0.8 * fp32_onnx.path.stat().st_size


def test_half_takes_half_the_room(
    fp32_engine: bytes, fp32_onnx: Artifact, fp16_onnx: Artifact, rtx_engine: Artifact
) -> None:
    files = fp16_onnx.path.stat().st_size / fp32_onnx.path.stat().st_size
    engines = rtx_engine.path.stat().st_size / len(fp32_engine)
    assert 0.49 < files < 0.55
    assert 0.45 < engines < 0.6


def test_engine_names_its_chain_and_what_it_was_built_for(
    rtx_engine: Artifact, fp16_onnx: Artifact, reference: Artifact
) -> None:
    import tensorrt_rtx

    manifest = open_artifact(rtx_engine.path).manifest
    assert [(p.kind, p.sha256) for p in manifest.parents] == [
        (Kind.CHECKPOINT, reference.manifest.sha256),
        (Kind.ONNX, fp16_onnx.manifest.sha256),
    ]
    assert manifest.precision is Precision.FP16
    assert manifest.batch == BATCH
    assert manifest.versions["tensorrt-rtx"] == tensorrt_rtx.__version__
    assert manifest.built_for is not None
    assert manifest.built_for.system == platform.system()


def test_engine_that_cannot_run_here_is_not_proved_and_not_failed(rtx_engine: Artifact) -> None:
    proof = rtx_engine.manifest.proof
    assert proof is not None
    assert proof.status == "not run"
    assert proof.how.startswith("built, not run: ")


def _transposed_before_the_cast() -> onnx.ModelProto:
    """What TensorRT's parser refuses: uint8 moved before it is cast."""
    nodes = [
        helper.make_node("Transpose", ["images"], ["moved"], "early_move", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["moved"], ["samples"], "late_cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["samples", "axes"], ["grey"], "mean", keepdims=0),
        helper.make_node("Cast", ["grey"], ["foreground"], "out", to=TensorProto.UINT8),
    ]
    nodes[0].metadata_props.add(key="module", value="early")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "early",
        [value("images", TensorProto.UINT8, ["batch", *SIZE_HW, 3])],
        [value("foreground", TensorProto.UINT8, ["batch", *SIZE_HW])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_graph_that_the_parser_refuses_is_an_error_that_names_the_node() -> None:
    model = _transposed_before_the_cast()
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(ExportError, match=r"tensorrt_rtx .* refuses the graph: .*early_move"):
        engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, BATCH)


def test_op_that_the_parser_does_not_know_is_named_with_its_torch_module() -> None:
    model = _transposed_before_the_cast()
    node = model.graph.node[2]
    node.op_type, node.domain = "Daydream", "local"
    node.metadata_props.add(key="module", value="dreams")
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(model.graph.node[0])
    with pytest.raises(ExportError, match=r"refuses the graph: .*(Daydream|early_move)"):
        engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, BATCH)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Kind.TENSORRT, r'pip install "flowerseg\[tensorrt\]"'),
        (Kind.TENSORRT_RTX, r'pip install "flowerseg\[rtx\]"'),
    ],
)
def test_missing_module_is_named_with_its_pip_line(
    kind: Kind, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(BackendUnavailable, match=line):
        engine_from_onnx(onnx.ModelProto(), kind, SIZE_HW, BATCH)


@pytest.mark.usefixtures("no_gpu")
def test_tensorrt_without_a_gpu_is_told_what_to_build_instead() -> None:
    with pytest.raises(BackendUnavailable, match="use --to tensorrt-rtx or --to onnx"):
        built_for(Kind.TENSORRT)


@pytest.mark.usefixtures("no_gpu")
def test_rtx_engine_is_bound_to_no_single_gpu() -> None:
    assert built_for(Kind.TENSORRT_RTX).compute_capability == ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The builder's configs as they were when their builds began."""
    configs: list[Any] = []
    configure = engine_module._config

    def remember(*arguments: Any) -> Any:
        configs.append(configure(*arguments))
        return configs[-1]

    monkeypatch.setattr(engine_module, "_config", remember)
    return configs


def test_builder_is_asked_for_what_the_build_says(fp32_onnx: Artifact, asked: list[Any]) -> None:
    trt = importlib.import_module("tensorrt_rtx")
    build = EngineBuild(
        workspace_mib=256,
        optimisation_level=2,
        compute_capabilities=("8.9", "12.0"),
    )
    model = onnx.load(fp32_onnx.path)
    engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, BATCH, build, allow_tf32=True)
    (config,) = asked
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 256 * 2**20
    assert config.builder_optimization_level == 2
    assert config.get_flag(trt.BuilderFlag.TF32)
    targets = [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)]
    assert targets == [trt.ComputeCapability.SM89, trt.ComputeCapability.SM120]


def test_fp32_engine_is_fp32_and_bound_to_its_gpu_unless_asked(
    fp32_onnx: Artifact, asked: list[Any]
) -> None:
    trt = importlib.import_module("tensorrt_rtx")
    engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, BATCH)
    (config,) = asked
    for flag in ("TF32", "REFIT", "VERSION_COMPATIBLE"):
        assert not config.get_flag(getattr(trt.BuilderFlag, flag)), flag
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.NONE


def test_compute_capability_that_nobody_knows_is_refused_with_those_that_are(
    fp32_onnx: Artifact,
) -> None:
    build = EngineBuild(compute_capabilities=("9.9",))
    with pytest.raises(ExportError, match=r"no compute capability 9\.9; it knows .*SM89"):
        engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, BATCH, build)


def test_builder_is_asked_for_what_only_a_gpu_can_build() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    logger = engine_module._collecting_logger(trt)
    build = EngineBuild(version_compatible=True, refittable=True)
    config = engine_module._config(Kind.TENSORRT_RTX, trt.Builder(logger), build, logger)
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert config.get_flag(trt.BuilderFlag.REFIT)


@pytest.mark.parametrize(
    ("hardware", "level"),
    [(Hardware.AMPERE_PLUS, "AMPERE_PLUS"), (Hardware.SAME_CAPABILITY, "SAME_COMPUTE_CAPABILITY")],
)
def test_hardware_level_is_the_one_of_that_name(hardware: Hardware, level: str) -> None:
    trt = importlib.import_module("tensorrt_rtx")
    config = SimpleNamespace(hardware_compatibility_level=None)
    engine_module._set_hardware_level(trt, config, hardware, _Logger())
    assert config.hardware_compatibility_level.name == level


def test_builder_that_keeps_its_own_hardware_level_is_an_error(fp32_onnx: Artifact) -> None:
    """TensorRT-RTX takes the setting without a word, and builds for what it always builds."""
    build = EngineBuild(hardware=Hardware.AMPERE_PLUS)
    with pytest.raises(ExportError, match=r"builds no engines for ampere\+"):
        engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, BATCH, build)


@pytest.mark.usefixtures("no_gpu")
def test_refittable_rtx_engine_without_a_gpu_is_told_what_to_do() -> None:
    with pytest.raises(BackendUnavailable, match="Leave --refittable out, or build there"):
        built_for(Kind.TENSORRT_RTX, EngineBuild(refittable=True))


def test_every_step_of_the_build_is_told(fp32_onnx: Artifact) -> None:
    told: list[tuple[str, int, int]] = []
    engine_from_onnx(
        onnx.load(fp32_onnx.path),
        Kind.TENSORRT_RTX,
        SIZE_HW,
        BATCH,
        on_progress=lambda *step: told.append(step),
    )
    assert told
    begun = {phase for phase, done, _ in told if done == 0}
    finished = {phase for phase, done, steps in told if done == steps}
    assert begun == finished
    assert all(0 <= done <= steps for _, done, steps in told)


def test_ctrl_c_cancels_the_build(fp32_onnx: Artifact) -> None:
    """A process of its own sends itself SIGINT at the builder's first step."""
    script = f"""
        import onnx, os, signal, sys
        from flowerseg.artifact import Batch, Kind
        from flowerseg_export.engine import engine_from_onnx

        # Started in the background, a process inherits that SIGINT is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        steps = []

        def interrupt(phase, done, count):
            if not steps:
                os.kill(os.getpid(), signal.SIGINT)
            steps.append(phase)

        model = onnx.load({str(fp32_onnx.path)!r})
        try:
            engine_from_onnx(
                model, Kind.TENSORRT_RTX, {SIZE_HW}, Batch(1, 4, 8), on_progress=interrupt
            )
        except KeyboardInterrupt:
            sys.exit(42 if steps else 1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 42, done.stderr
    assert "Traceback" not in done.stderr


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+times"


class _Config:
    """A config that takes a timing cache, or refuses it."""

    def __init__(self, *, takes: bool) -> None:
        self._takes = takes
        self.given: list[bytes] = []

    def create_timing_cache(self, content: bytes) -> _Cache:
        self.given.append(content)
        return _Cache(content)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        return self._takes


class _Logger:
    def said(self) -> str:
        return "made by another GPU"


def test_timing_cache_is_read_where_there_is_one(tmp_path: Path) -> None:
    path, config = tmp_path / "a.cache", _Config(takes=True)
    engine_module._load_timing_cache(config, path, _Logger())
    path.write_bytes(b"times")
    engine_module._load_timing_cache(config, path, _Logger())
    assert config.given == [b"", b"times"]


def test_timing_cache_of_another_gpu_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.cache"
    with pytest.raises(ExportError, match=r"a\.cache: .*made by another GPU\. Delete it"):
        engine_module._load_timing_cache(_Config(takes=False), path, _Logger())


def test_timing_cache_is_of_one_version_and_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setattr(engine_module, "device_name", lambda _: "NVIDIA H200/SXM")
    path = engine_module._timing_cache(Kind.TENSORRT, "11.4.0")
    assert path == Path("/caches/flowerseg/timing/tensorrt-11.4.0-NVIDIA-H200-SXM.cache")
    assert engine_module._timing_cache(Kind.TENSORRT_RTX, "1.7.1") is None
