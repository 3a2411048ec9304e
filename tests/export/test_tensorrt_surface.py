"""The source against TensorRT's API, version by version: no GPU and no TensorRT is needed.

What a version offers lies in `tensorrt-surface/`, made by `tensorrt_surface.py`; `tensorrt_uses.py`
finds what the source asks of it.
"""

import re
import tomllib
from pathlib import Path

import pytest

from tests.export.tensorrt_surface import GOLDENS, Form, Surface, surface_of
from tests.export.tensorrt_uses import problems, uses

ROOT = Path(__file__).parents[2]
SURFACES = {
    golden.stem: Surface.from_json(golden.read_text(encoding="utf-8"))
    for golden in sorted(GOLDENS.glob("*.json"))
}
TEN = ["tensorrt-10.12.0.36", "tensorrt-10.16.1.11"]
ELEVEN = ["tensorrt-11.0.0.114", "tensorrt-11.4.0.106"]
RTX = ["tensorrt_rtx-1.4.0.76", "tensorrt_rtx-1.7.1.116"]
# ExportConfig takes compute capabilities for TensorRT-RTX only: tests/export/test_config.py.
RTX_ALONE = {
    "module.ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}

# What it uses exists in TensorRT-RTX alone; flowerseg/backends/trt.py calls it for that kind.
RTX_SOURCE = ROOT / "flowerseg/backends/rtx.py"

SOURCES = [
    path
    for folder in ("flowerseg", "export", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if re.search(r"\btrt\b|\bimport_tensorrt\b", path.read_text(encoding="utf-8"))
]


def _has(version: str, name: str) -> bool:
    owner, _, member = name.rpartition(".")
    return SURFACES[version].member(owner, member) is not None


# The source.


@pytest.mark.parametrize(
    ("path", "version"),
    [
        pytest.param(path, version, id=f"{path.relative_to(ROOT).as_posix()}-{version}")
        for path in SOURCES
        for version in (RTX if path == RTX_SOURCE else SURFACES)
    ],
)
def test_every_version_has_what_the_source_uses(path: Path, version: str) -> None:
    known = RTX_ALONE if version not in RTX else set()
    assert problems(path.read_text(encoding="utf-8"), SURFACES[version], known) == []


def test_runtime_settings_of_rtx_are_seen_and_held_against_every_rtx_version() -> None:
    assert RTX_SOURCE in SOURCES
    source = RTX_SOURCE.read_text(encoding="utf-8")
    names = {
        "?.create_runtime_config",
        "IRuntimeConfig.cuda_graph_strategy",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
        "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
        "DynamicShapesKernelSpecializationStrategy.EAGER",
        "?.create_runtime_cache",
        "?.set_runtime_cache",
        "?.deserialize",
        "?.serialize",
    }
    for version in RTX:
        assert names <= {use.name for use in uses(source, SURFACES[version])}
    renamed = source.replace("create_runtime_cache", "make_runtime_cache")
    assert [p.partition(": ")[2] for p in problems(renamed, SURFACES[RTX[0]])] == [
        "?.make_runtime_cache is missing"
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_the_source_guards_exists_in_some_version(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    guarded = [{u for u in uses(source, s) if u.is_guarded} for s in SURFACES.values()]
    had = {use.name for found in guarded for use in found if not use.problem}
    assert {use.name for found in guarded for use in found} <= had


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (
            "export/flowerseg_export/engine.py",
            {
                "BuilderFlag.TF32",
                "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
                "Builder.build_serialized_network",
                "IBuilderConfig.create_timing_cache",
                "ITimingCache.serialize",
                "OnnxParser.parse",
                "IOptimizationProfile.set_shape",
                "ILogger.log",
            },
        ),
        (
            "flowerseg/backends/trt.py",
            {
                "Runtime.deserialize_cuda_engine",
                "ICudaEngine.device_memory_size_v2",
                "ICudaEngine.create_execution_context",
                "ExecutionContextAllocationStrategy.USER_MANAGED",
                "IExecutionContext.set_device_memory",
                "IExecutionContext.execute_async_v3",
                "ICudaEngine.num_optimization_profiles",
                "ICudaEngine.get_tensor_profile_shape",
                "IExecutionContext.active_optimization_profile",
                "IExecutionContext.set_optimization_profile_async",
            },
        ),
    ],
)
def test_uses_are_seen_with_their_classes(path: str, names: set[str]) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    assert names <= {use.name for use in uses(source, SURFACES["tensorrt-11.4.0.106"])}


# The goldens.


def test_installed_bindings_are_what_their_golden_says() -> None:
    import tensorrt_rtx

    # The golden was read against stand-ins for the libraries; these are the libraries.
    installed = surface_of(tensorrt_rtx)
    assert SURFACES[installed.name] == installed


def test_goldens_reach_back_to_the_oldest_version_that_may_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert extras["tensorrt"] == ["tensorrt>=10.12,<12"]
    assert extras["rtx"] == ["tensorrt-rtx>=1.4"]
    assert set(TEN + ELEVEN + RTX) <= set(SURFACES)


@pytest.mark.parametrize(
    "name",
    [
        "BuilderFlag.FP16",
        "BuilderFlag.INT8",
        "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "Builder.platform_has_fast_fp16",
        "IBuilderConfig.int8_calibrator",
        "IBuilderConfig.set_calibration_profile",
        "ICudaEngine.device_memory_size",
        "ILayer.precision",
        "module.IInt8EntropyCalibrator2",
    ],
)
def test_what_11_removed_is_in_10_alone(name: str) -> None:
    assert [_has(version, name) for version in TEN + ELEVEN] == [True, True, False, False]


@pytest.mark.parametrize(
    "name",
    [
        "BuilderFlag.TF32",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "ICudaEngine.device_memory_size_v2",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_device_memory",
        "IExecutionContext.set_tensor_address",
        "Logger.ERROR",
        "Logger.log",
    ],
)
def test_what_10_and_11_share_is_in_all(name: str) -> None:
    assert all(_has(version, name) for version in SURFACES)


@pytest.mark.parametrize("name", sorted(RTX_ALONE))
def test_compute_capabilities_are_chosen_for_rtx_alone(name: str) -> None:
    assert {version for version in SURFACES if _has(version, name)} == set(RTX)


@pytest.mark.parametrize("version", SURFACES)
def test_signatures_carry_arguments_defaults_and_results(version: str) -> None:
    surface = SURFACES[version]
    (made,) = surface.member("Builder", "create_network") or []
    assert made.to_text() == "(flags=) -> INetworkDefinition"
    (shaped,) = surface.member("IOptimizationProfile", "set_shape") or []
    assert shaped.to_text() == "(input, min, opt, max)"
    assert surface.member("IBuilderConfig", "progress_monitor") == [
        Form("value", "IProgressMonitor")
    ]
    assert surface.member("IBuilderConfig", "__init__") is None


def test_graphs_share_memory_through_the_same_call_in_every_version() -> None:
    for surface in SURFACES.values():
        (given,) = surface.member("IExecutionContext", "set_device_memory") or []
        assert given.to_text() == "(memory, size)"
        made = surface.member("ICudaEngine", "create_execution_context") or []
        assert [way.to_text() for way in made] == [
            "(strategy=) -> IExecutionContext",
            "(runtime_config=) -> IExecutionContext",
        ]


@pytest.mark.parametrize(
    "name",
    [
        "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
        "DynamicShapesKernelSpecializationStrategy.EAGER",
        "IRuntimeConfig.create_runtime_cache",
        "IRuntimeConfig.cuda_graph_strategy",
        "IRuntimeConfig.set_runtime_cache",
        "IRuntimeCache.deserialize",
    ],
)
def test_runtime_settings_are_in_every_rtx_and_in_rtx_alone(name: str) -> None:
    owner, _, member = name.rpartition(".")
    having = {v for v, s in SURFACES.items() if owner in s.classes and s.member(owner, member)}
    assert having == set(RTX)


# The instrument, on source with a known answer.

OLD_SOURCE = """
def build(trt, logger):
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.FP16)
    return builder.build_serialized_network(network, config)
"""


@pytest.mark.parametrize("version", ELEVEN)
def test_source_for_tensorrt_10_is_refused_by_11(version: str) -> None:
    assert problems(OLD_SOURCE, SURFACES[version]) == [
        "line 4: NetworkDefinitionCreationFlag.EXPLICIT_BATCH is missing",
        "line 7: BuilderFlag.FP16 is missing",
    ]


@pytest.mark.parametrize("version", TEN)
def test_source_for_tensorrt_10_is_taken_by_10(version: str) -> None:
    assert problems(OLD_SOURCE, SURFACES[version]) == []


HELPERS = """
def _by_name(trt, name: str):
    return getattr(trt.BuilderFlag, name)
def _kept(value: Any):
    return value
def _called(make):
    return make()
def _flag(flags: Any):
    return flags.FP16
class Holder:
    def __init__(self, flags):
        self._flags = flags
    def flag(self):
        return self._flags.FP16
"""


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("trt.Builder()", "trt.Builder takes (logger)"),
        ("trt.IBuilderConfig()", "trt.IBuilderConfig cannot be called"),
        ("trt.Runtime(trt.Logger(), 1)", "trt.Runtime takes (logger)"),
        ("config.set_flag(flags=1)", "config.set_flag takes (flag)"),
        ("config.fp16 = True", "?.fp16 is missing"),
        ("setattr(config, 'fp16', True)", "?.fp16 is missing"),
        ("getattr(trt.BuilderFlag, 'FP16')", "BuilderFlag.FP16 is missing"),
        ("_by_name(trt, 'FP16')", "BuilderFlag.FP16 is missing"),
        (
            "getattr(trt, config)",
            "getattr(trt, config) names nothing that can be read here",
        ),
        ("_kept(trt.BuilderFlag).FP16", "BuilderFlag.FP16 is missing"),
        ("_flag(trt.BuilderFlag)", "BuilderFlag.FP16 is missing"),
        ("map(_flag, [trt.BuilderFlag])", "?.FP16 is missing"),
        ("_called(lambda: trt.Builder(config)).fp16()", "Builder.fp16 is missing"),
        ("_called(lambda: trt.Builder())", "trt.Builder takes (logger)"),
        ("Holder(trt.BuilderFlag).flag()", "BuilderFlag.FP16 is missing"),
        ("with trt.Logger() as log: log.said()", "Logger.said is missing"),
        (
            "class M(trt.IProgressMonitor):\n  def phase_start(self, name): pass",
            "IProgressMonitor.phase_start takes (phase_name, parent_phase, num_steps)",
        ),
        (
            "class M(trt.IProgressMonitor):\n  def phase_ended(self, name): pass",
            "IProgressMonitor.phase_ended is missing",
        ),
    ],
)
def test_what_would_fail_is_named(body: str, problem: str) -> None:
    source = f"def entry(trt, config: Any):\n {body}\n" + HELPERS
    (found,) = problems(source, SURFACES["tensorrt-11.4.0.106"])
    assert found.partition(": ")[2] == problem


@pytest.mark.parametrize(
    "body",
    [
        "getattr(trt.BuilderFlag, 'FP16', None)",
        "hasattr(trt.BuilderFlag, 'FP16') and trt.BuilderFlag.FP16",
        "trt.BuilderFlag.FP16 if hasattr(trt.BuilderFlag, 'FP16') else trt.BuilderFlag.TF32",
        "if hasattr(trt.BuilderFlag, 'FP16'): trt.BuilderFlag.FP16",
        "if not hasattr(trt.BuilderFlag, 'FP16'): return\n trt.BuilderFlag.FP16",
        "if kind is Kind.TENSORRT_RTX: _for_gpus(trt, trt.BuilderFlag)",
        "if kind is Kind.TENSORRT: return\n trt.BuilderFlag.FP16",
        "trt.IBuilderConfig.__doc__",
    ],
)
def test_what_is_guarded_or_not_for_this_module_passes(body: str) -> None:
    source = f"def entry(trt, kind, config: Any):\n {body}\n"
    source += "def _for_gpus(trt, flags):\n return flags.FP16\n"
    assert problems(source, SURFACES["tensorrt-11.4.0.106"]) == []
