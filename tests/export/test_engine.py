"""Real TensorRT-RTX engines, built without a GPU, and what is said when there is none to build."""

import importlib
import os
import platform
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
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
from flowerseg.backends import SessionOptions, gpucache, open_backend, run
from flowerseg.backends import trt as trt_module
from flowerseg.backends.trt import open_engine
from flowerseg.doctor.gpu import Driver
from flowerseg.errors import BackendUnavailable, ExportError
from flowerseg_export import engine as engine_module
from flowerseg_export.config import ExportConfig
from flowerseg_export.engine import built_for, engine_from_onnx
from flowerseg_export.export import Listener, export_model

SIZE_HW = (64, 64)
BATCH = Batch(1, 4, 8)
PROFILES = (BATCH,)


@pytest.fixture(scope="module")
def fp32_engine(fp32_onnx: Artifact) -> bytes:
    return engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, PROFILES)


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
    assert (manifest.batch, manifest.profiles) == (BATCH, PROFILES)
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
        engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, PROFILES)


def test_op_that_the_parser_does_not_know_is_named_with_its_torch_module() -> None:
    model = _transposed_before_the_cast()
    node = model.graph.node[2]
    node.op_type, node.domain = "Daydream", "local"
    node.metadata_props.add(key="module", value="dreams")
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(model.graph.node[0])
    with pytest.raises(ExportError, match=r"refuses the graph: .*(Daydream|early_move)"):
        engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, PROFILES)


def _profiles_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The optimisation profiles that the builder is about to be given."""
    trt = importlib.import_module("tensorrt_rtx")
    create, profiles = trt.Builder.create_optimization_profile, list[Any]()

    def remember(builder: Any) -> Any:
        profiles.append(create(builder))
        return profiles[-1]

    monkeypatch.setattr(trt.Builder, "create_optimization_profile", remember)
    return profiles


def test_engine_has_kernels_for_each_of_its_profiles(
    fp32_onnx: Artifact, fp32_engine: bytes, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine itself holds is read on a GPU only: `Runtime` needs a CUDA driver."""
    created = _profiles_asked_for(monkeypatch)
    profiles = (Batch(1, 1, 1), Batch(2, 4, 4), Batch(5, 8, 8))
    engine = engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, profiles)
    (config,) = asked
    assert config.num_optimization_profiles == 3
    batches = [tuple(shape[0] for shape in profile.get_shape("images")) for profile in created]
    assert batches == [(1, 1, 1), (2, 4, 4), (5, 8, 8)]
    assert {tuple(p.get_shape("images")[2][1:]) for p in created} == {(*SIZE_HW, 3)}
    assert len(engine) > len(fp32_engine) + 10**5


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_engine_of_several_profiles_gives_the_masks_of_its_graph(
    fp32_onnx: Artifact, tmp_path: Path
) -> None:
    profiles = (Batch(1, 1, 1), Batch(2, 4, 4), Batch(5, 8, 8))
    config = ExportConfig(
        fp32_onnx.path, tmp_path / "a.engine", Kind.TENSORRT, profiles=profiles, device="cuda"
    )
    engine = export_model(config)[-1]
    photos = np.random.default_rng(7).integers(0, 256, (8, *SIZE_HW, 3), np.uint8)
    expected = run(open_backend(fp32_onnx, "cpu"), photos)
    for cuda_graph in (False, True):
        options = SessionOptions(cuda_graph=cuda_graph)
        with closing(open_engine(engine, "auto", options)[0]) as backend:
            for size in (8, 1, 4, 2, 1, 8):
                found = run(backend, photos[:size])
                assert np.abs(found.astype(int) - expected[:size]).max() <= 2


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
        engine_from_onnx(onnx.ModelProto(), kind, SIZE_HW, PROFILES)


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
    engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, PROFILES, build, allow_tf32=True)
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
    engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, PROFILES)
    (config,) = asked
    for flag in ("TF32", "REFIT", "VERSION_COMPATIBLE"):
        assert not config.get_flag(getattr(trt.BuilderFlag, flag)), flag
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.NONE


def test_compute_capability_that_nobody_knows_is_refused_with_those_that_are(
    fp32_onnx: Artifact,
) -> None:
    build = EngineBuild(compute_capabilities=("9.9",))
    with pytest.raises(ExportError, match=r"no compute capability 9\.9; it knows .*SM89"):
        engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, PROFILES, build)


def test_builder_is_asked_for_what_only_a_gpu_can_build() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    logger = engine_module.collecting_logger(trt)
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
    engine_module._set_hardware_level(trt, config, hardware, _logger())
    assert config.hardware_compatibility_level.name == level


def test_builder_that_keeps_its_own_hardware_level_is_an_error(fp32_onnx: Artifact) -> None:
    """TensorRT-RTX takes the setting without a word, and builds for what it always builds."""
    build = EngineBuild(hardware=Hardware.AMPERE_PLUS)
    with pytest.raises(ExportError, match=r"builds no engines for ampere\+"):
        engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, PROFILES, build)


@pytest.mark.usefixtures("no_gpu")
def test_refittable_rtx_engine_without_a_gpu_is_told_what_to_do() -> None:
    with pytest.raises(BackendUnavailable, match="Leave --refittable out, or build on a machine"):
        built_for(Kind.TENSORRT_RTX, EngineBuild(refittable=True))


def test_every_step_of_the_build_is_told(fp32_onnx: Artifact) -> None:
    told: list[tuple[str, int, int]] = []
    engine_from_onnx(
        onnx.load(fp32_onnx.path),
        Kind.TENSORRT_RTX,
        SIZE_HW,
        PROFILES,
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
                model, Kind.TENSORRT_RTX, {SIZE_HW}, [Batch(1, 4, 8)], on_progress=interrupt
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


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (EngineBuild(workspace_mib=256), "--workspace 256"),
        (EngineBuild(optimisation_level=9), "--optimisation-level 9 and keeps 5"),
    ],
)
def test_setting_that_the_builder_does_not_keep_is_an_error(
    build: EngineBuild, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX itself lowers level 9 to 5 without an error."""
    trt = importlib.import_module("tensorrt_rtx")
    monkeypatch.setattr(trt.IBuilderConfig, "set_memory_pool_limit", lambda *_: None)
    logger = engine_module.collecting_logger(trt)
    with pytest.raises(ExportError, match=option):
        engine_module._config(Kind.TENSORRT_RTX, trt.Builder(logger), build, logger)


def test_engine_keeps_what_is_known_about_its_layers() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    logger = engine_module.collecting_logger(trt)
    config = engine_module._config(Kind.TENSORRT_RTX, trt.Builder(logger), EngineBuild(), logger)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


def test_builder_that_tensorrt_does_not_give_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_builder(_: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt = importlib.import_module("tensorrt_rtx")
    monkeypatch.setattr(trt, "Builder", no_builder)
    with pytest.raises(ExportError, match=r"makes no Builder: .*nullptr.*flowerseg-doctor"):
        engine_from_onnx(onnx.ModelProto(), Kind.TENSORRT_RTX, SIZE_HW, PROFILES)


# A machine with two GPUs: the builder of TensorRT-RTX stands in for TensorRT's.


class _TwoGpus(threading.local):
    """The device that is current in a thread, and what was done on which in any."""

    used: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self) -> None:
        self.current = "cuda:0"

    @contextmanager
    def device(self, device: str) -> Iterator[None]:
        before, self.current = self.current, device
        yield
        self.current = before

    def noted(self, call: Any, name: str) -> Any:
        def note(*arguments: Any) -> Any:
            self.used.add((name, self.current))
            return call(*arguments)

        return note


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _TwoGpus:
    found = _TwoGpus()
    found.used.clear()
    trt = importlib.import_module("tensorrt_rtx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setitem(trt_module._MODULES, Kind.TENSORRT, "tensorrt_rtx")
    monkeypatch.setattr(gpucache, "driver_here", lambda: Driver("580.65.06", "13.0"))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {device}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, int(device[-1])))
    monkeypatch.setattr(torch.cuda, "device", found.device)
    for name in ("Builder", "OnnxParser"):
        monkeypatch.setattr(trt, name, found.noted(getattr(trt, name), name))
    build = engine_module._built
    monkeypatch.setattr(engine_module, "_built", found.noted(build, "build"))
    cancellable = engine_module._cancellable
    monkeypatch.setattr(
        engine_module,
        "_cancellable",
        lambda build, *rest: cancellable(found.noted(build, "thread of the build"), *rest),
    )
    return found


no_ops_in_rtx = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops")
"""TensorRT-RTX has TensorRT's calls for timing caches, and says that they do nothing."""


def _timing_caches(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "caches/flowerseg/timing").glob("*"))


@no_ops_in_rtx
@pytest.mark.parametrize(
    ("device", "used"), [("cuda:1", "cuda:1"), ("cuda", "cuda:0"), ("auto", "cuda:0")]
)
def test_engine_is_built_timed_and_recorded_on_the_gpu_that_was_requested(
    fp32_onnx: Artifact, two_gpus: _TwoGpus, tmp_path: Path, device: str, used: str
) -> None:
    out = tmp_path / "a.engine"
    config = ExportConfig(fp32_onnx.path, out, Kind.TENSORRT, profiles=PROFILES, device=device)
    engine = export_model(config)[-1]
    names = {"Builder", "OnnxParser", "build", "thread of the build"}
    assert two_gpus.used == {(name, used) for name in names}
    assert engine.manifest.built_for is not None
    assert engine.manifest.built_for.gpu == f"NVIDIA {used}"
    assert engine.manifest.built_for.compute_capability == f"9.{used[-1]}"
    commands = open_artifact(out).manifest.trtexec
    assert commands["11"].build.startswith(f"trtexec --onnx={fp32_onnx.path.name} ")
    assert commands["10"].time[0].startswith("trtexec --loadEngine=a.engine ")
    (cache,) = _timing_caches(tmp_path)
    trt = importlib.import_module("tensorrt_rtx")
    index = used[-1]
    assert cache.name == (
        f"tensorrt-{trt.__version__}-NVIDIA-cuda-{index}-driver-580.65.06-cuda-13.2.cache"
    )


def test_rtx_engine_is_built_with_the_requested_gpu_current(
    fp32_onnx: Artifact, two_gpus: _TwoGpus, tmp_path: Path
) -> None:
    model = onnx.load(fp32_onnx.path)
    engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, PROFILES, device="cuda:1")
    assert {device for _, device in two_gpus.used} == {"cuda:1"}
    assert _timing_caches(tmp_path) == []


def test_gpu_that_is_not_there_is_refused(two_gpus: _TwoGpus) -> None:
    with pytest.raises(BackendUnavailable, match="--device cuda:2: torch sees 2 CUDA devices"):
        built_for(Kind.TENSORRT, None, "cuda:2")


def test_tensorrt_is_not_built_on_a_gpu_where_the_cpu_was_requested(two_gpus: _TwoGpus) -> None:
    with pytest.raises(BackendUnavailable, match="--device cpu names none"):
        built_for(Kind.TENSORRT, None, "cpu")


# Timing caches.


@no_ops_in_rtx
def test_damaged_timing_cache_is_replaced_and_the_user_is_told_once(
    fp32_onnx: Artifact, two_gpus: _TwoGpus, tmp_path: Path
) -> None:
    """With the real builder of TensorRT-RTX, which warns and returns an empty cache."""
    model, lines = onnx.load(fp32_onnx.path), list[str]()
    path = gpucache.cache_path(
        "timing", "cuda:0", "tensorrt", importlib.import_module("tensorrt_rtx").__version__
    )
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    assert engine_from_onnx(model, Kind.TENSORRT, SIZE_HW, PROFILES, on_notice=lines.append)
    (line,) = lines
    assert line.startswith(f"{path}: timing cache not used (")
    assert line.endswith("; the builder measures every kernel again and replaces the file")
    assert path.read_bytes() not in (b"", b"something else")


@no_ops_in_rtx
def test_export_shows_the_notice_to_its_listener(
    fp32_onnx: Artifact, two_gpus: _TwoGpus, tmp_path: Path
) -> None:
    stages: list[str] = []
    (tmp_path / "caches").write_text("a file where the folder goes")
    config = ExportConfig(fp32_onnx.path, tmp_path / "a.engine", Kind.TENSORRT, profiles=PROFILES)
    export_model(config, Listener(on_stage=stages.append))
    assert any(stage.startswith("cache not written") for stage in stages)


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_tensorrt_replaces_a_damaged_timing_cache_and_takes_its_own(
    fp32_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    model, lines = onnx.load(fp32_onnx.path), list[str]()
    engine_from_onnx(model, Kind.TENSORRT, SIZE_HW, PROFILES, on_notice=lines.append)
    engine_from_onnx(model, Kind.TENSORRT, SIZE_HW, PROFILES, on_notice=lines.append)
    assert lines == []
    (path,) = _timing_caches(tmp_path)
    path.write_bytes(b"something else")
    engine_from_onnx(model, Kind.TENSORRT, SIZE_HW, PROFILES, on_notice=lines.append)
    assert [line.partition(" (")[0] for line in lines] == [f"{path}: timing cache not used"]
    assert path.read_bytes() != b"something else"


class _Cache:
    def __init__(self, content: bytes, *, is_kept: bool = True) -> None:
        self._content = content
        self._is_kept = is_kept

    def serialize(self) -> bytes | None:
        return self._content + b"+times" if self._is_kept else None


class _Config:
    """A config that takes the timing caches that it is said to take."""

    def __init__(self, logger: Any, *contents: bytes, creates: bool = True) -> None:
        self._logger = logger
        self._takes = contents
        self._creates = creates
        self.given: list[bytes] = []

    def create_timing_cache(self, content: bytes) -> _Cache | None:
        self.given.append(content)
        return _Cache(content) if self._creates or not content else None

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if self.given[-1] not in self._takes:
            trt = importlib.import_module("tensorrt_rtx")
            self._logger.log(trt.ILogger.ERROR, "made by another GPU")
            return False
        return True


def _logger() -> Any:
    return engine_module.collecting_logger(importlib.import_module("tensorrt_rtx"))


def test_timing_cache_is_read_where_there_is_one(tmp_path: Path) -> None:
    path, logger, lines = tmp_path / "a.cache", _logger(), list[str]()
    config = _Config(logger, b"", b"times")
    assert engine_module._load_timing_cache(config, path, logger, lines.append)
    path.write_bytes(b"times")
    cache = engine_module._load_timing_cache(config, path, logger, lines.append)
    assert config.given == [b"", b"times"]
    engine_module._save_timing_cache(cache, path, logger, lines.append)
    assert path.read_bytes() == b"times+times"
    assert lines == []


@pytest.mark.parametrize("creates", [True, False])
def test_timing_cache_of_another_gpu_is_ignored_with_words(tmp_path: Path, creates: bool) -> None:
    path, logger, lines = tmp_path / "a.cache", _logger(), list[str]()
    path.write_bytes(b"foreign")
    config = _Config(logger, b"", creates=creates)
    cache = engine_module._load_timing_cache(config, path, logger, lines.append)
    why = "made by another GPU" if creates else "TensorRT gave no reason"
    assert lines == [
        f"{path}: timing cache not used ({why}); the builder measures every kernel again and "
        "replaces the file"
    ]
    assert cache.serialize() == b"+times"
    assert logger.reason() == "TensorRT gave no reason"  # not of a build that fails later


def test_builder_that_takes_no_timing_cache_builds_without_one(tmp_path: Path) -> None:
    path, logger, lines = tmp_path / "a.cache", _logger(), list[str]()
    cache = engine_module._load_timing_cache(_Config(logger), path, logger, lines.append)
    engine_module._save_timing_cache(cache, path, logger, lines.append)
    assert lines == ["building without a timing cache: made by another GPU"]
    assert not path.exists()


def test_timing_cache_that_cannot_be_kept_costs_no_engine(tmp_path: Path) -> None:
    path, lines = tmp_path / "a.cache", list[str]()
    cache = _Cache(b"", is_kept=False)
    engine_module._save_timing_cache(cache, path, _logger(), lines.append)
    assert lines == [f"{path}: timing cache not written: TensorRT gave no reason"]


def test_timing_cache_that_the_system_does_not_read_is_ignored_with_words(tmp_path: Path) -> None:
    lines: list[str] = []
    assert gpucache.read_cache(tmp_path, lines.append) == b""  # a folder
    assert lines == [f"{tmp_path}: cache not used: Is a directory; it only saves time"]


def test_builds_that_end_together_leave_one_whole_cache(tmp_path: Path) -> None:
    path, lines = tmp_path / "timing/a.cache", list[str]()
    contents = [bytes([build]) * 2**16 for build in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: gpucache.write_cache(path, content, lines.append), contents))
    assert path.read_bytes() in contents
    assert [file.name for file in path.parent.iterdir()] == ["a.cache"]
    assert lines == []


@pytest.mark.parametrize(
    ("driver", "word"),
    [
        (Driver("580.65.06", "13.0"), "driver-580.65.06"),
        (Driver("", "13.0"), "driver-for-cuda-13.0"),
        (None, "driver-unknown"),
    ],
)
def test_cache_is_of_one_gpu_driver_and_cuda(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, word: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setattr(gpucache, "device_name", lambda _: "NVIDIA H200/SXM")
    monkeypatch.setattr(gpucache, "driver_here", lambda: driver)
    path = gpucache.cache_path("timing", "cuda:0", "tensorrt", "11.4.0")
    name = f"tensorrt-11.4.0-NVIDIA-H200-SXM-{word}-cuda-12.9.cache"
    assert path == Path("/caches/flowerseg/timing") / name
