"""What every backend must do, asked of every backend: uint8 in, uint8 out, whatever the batch."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact, Batch, Kind, Manifest, Precision
from flowerseg.backends import (
    Backend,
    SessionOptions,
    fastest_proved,
    for_folders,
    open_backend,
    open_backends,
    openvino_,
    ort,
    run,
    runtimes_here,
)
from flowerseg.backends.device import computes_bf16
from flowerseg.backends.null import NullBackend
from flowerseg.errors import ArtifactError, BackendUnavailable
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Limits, Proof
from flowerseg_export.config import ExportConfig
from flowerseg_export.export import export_model

SIDE = 64
MAX_BATCH = 8

gpu = pytest.mark.gpu
EXACT = [
    "pytorch",
    "onnxruntime",
    "openvino",
    pytest.param("aotinductor", marks=pytest.mark.slow),
    pytest.param("torch-compile", marks=pytest.mark.slow),
    pytest.param("pytorch cuda", marks=gpu),
    pytest.param("onnxruntime cuda", marks=[gpu, pytest.mark.ort_cuda]),
    pytest.param("tensorrt cuda", marks=[gpu, pytest.mark.tensorrt]),
]
EVERY = ["null", *EXACT]


@pytest.fixture(scope="module")
def tensorrt_engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("tensorrt") / "small.engine"
    profiles = (Batch(1, 4, MAX_BATCH),)
    config = ExportConfig(checkpoint, out, Kind.TENSORRT, Precision.FP32, profiles=profiles)
    return export_model(config)[-1]


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    runtime, _, device = request.param.partition(" ")
    if runtime == "null":
        yield NullBackend((SIDE, SIDE), Batch(1, 4, MAX_BATCH))
        return
    fixture = {
        "pytorch": "reference",
        "torch-compile": "reference",
        "onnxruntime": "fp32_onnx",
        "openvino": "fp32_onnx",
        "aotinductor": "pt2_package",
        "tensorrt": "tensorrt_engine",
    }[runtime]
    artifact = request.getfixturevalue(fixture)
    with closing(open_backend(artifact, device or "cpu", runtime)) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(small_network: torch.nn.Module, frames: Images) -> Foreground:
    """`min(255, floor(256 p))` of every frame, in double precision and by numpy."""
    network = small_network
    with torch.inference_mode():
        logits = network(torch.from_numpy(frames)).double().numpy()
    return np.minimum(255, np.floor(256 / (1 + np.exp(-logits)))).astype(np.uint8)


def _levels_apart(one: Foreground, other: Foreground) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("backend", EVERY, indirect=True)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_any_batch_gives_a_byte_for_each_pixel(backend: Backend, frames: Images, size: int) -> None:
    foreground = run(backend, frames[:size])
    assert foreground.shape == (size, SIDE, SIDE)
    assert foreground.dtype == np.uint8


@pytest.mark.parametrize("backend", EXACT, indirect=True)
def test_values_are_the_references_but_for_one_level(
    backend: Backend, frames: Images, expected: Foreground
) -> None:
    for start in range(0, len(frames), MAX_BATCH):
        found = run(backend, frames[start : start + MAX_BATCH])
        assert _levels_apart(found, expected[start : start + MAX_BATCH]) <= 1


@pytest.mark.parametrize("backend", EVERY, indirect=True)
def test_photo_has_the_same_result_at_every_place_of_the_batch(
    backend: Backend, frames: Images
) -> None:
    alone = run(backend, frames[:1])[0]
    for place in range(5):
        batch = np.roll(frames[:5], place, axis=0)
        assert _levels_apart(run(backend, batch)[place], alone) <= 1


@pytest.mark.parametrize("backend", EVERY, indirect=True)
def test_result_is_not_overwritten_by_the_next_batch(backend: Backend, frames: Images) -> None:
    first = run(backend, frames[:3])
    kept = first.copy()
    second = run(backend, frames[3:6])
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("backend", EVERY, indirect=True)
def test_frames_that_are_not_contiguous_give_the_same_result(
    backend: Backend, frames: Images
) -> None:
    mirrored = frames[:2, :, ::-1]
    assert not mirrored.flags.c_contiguous
    np.testing.assert_array_equal(run(backend, mirrored), run(backend, mirrored.copy()))


@pytest.mark.parametrize("backend", EVERY, indirect=True)
@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, SIDE, SIDE, 3), np.float32),
        np.zeros((SIDE, SIDE, 3), np.uint8),
        np.zeros((1, 3, SIDE, SIDE), np.uint8),
        np.zeros((1, SIDE, SIDE + 1, 3), np.uint8),
        np.zeros((1, SIDE, SIDE, 4), np.uint8),
    ],
    ids=["float", "one photo", "channels first", "other size", "alpha"],
)
def test_other_type_or_shape_is_refused(backend: Backend, images: Images) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, 64, 64, 3\), not"):
        run(backend, images)


@pytest.mark.parametrize("backend", EVERY, indirect=True)
def test_empty_batch_is_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match="a batch of 0"):
        run(backend, np.zeros((0, SIDE, SIDE, 3), np.uint8))


@pytest.mark.parametrize(
    "backend",
    ["null", pytest.param("tensorrt cuda", marks=[gpu, pytest.mark.tensorrt])],
    indirect=True,
)
def test_batch_above_the_largest_is_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match="a batch of 9; the model takes 1 to 8"):
        run(backend, np.zeros((MAX_BATCH + 1, SIDE, SIDE, 3), np.uint8))


@pytest.mark.parametrize("backend", EVERY, indirect=True)
def test_info_says_what_runs_where(backend: Backend, request: pytest.FixtureRequest) -> None:
    runtime, _, device = request.node.callspec.params["backend"].partition(" ")
    assert backend.info.runtime == runtime
    assert backend.info.device == ("cuda:0" if device else "cpu")
    assert backend.info.size_hw == (SIDE, SIDE)
    assert backend.info.version[0].isdigit()


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("runtime", ["pytorch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_on_a_machine_without_it_is_an_error_and_not_the_cpu(
    reference: Artifact, fp32_onnx: Artifact, runtime: str, device: str
) -> None:
    artifact = reference if runtime == "pytorch" else fp32_onnx
    with pytest.raises(BackendUnavailable, match=device):
        open_backend(artifact, device, runtime)


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_the_cpu_and_says_so(fp32_onnx: Artifact) -> None:
    with closing(open_backend(fp32_onnx)) as opened:
        assert opened.info.device == "cpu"


def test_cpu_in_place_of_the_cuda_provider_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class FallenBack(onnxruntime.InferenceSession):
        """What ONNX Runtime does where CUDA's libraries are missing: no exception."""

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

        def __init__(self, model: object, **_: object) -> None:
            super().__init__(model, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(BackendUnavailable, match=r"runs \['CPUExecutionProvider'\], not CUDA"):
        ort.try_provider("cuda")


def test_provider_that_runs_nothing_is_not_blamed_on_the_file(
    fp32_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its libraries CUDA takes no node, and for the CPU there is a ban."""
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(BackendUnavailable, match=r"runs nothing on CUDAExecutionProvider: .*CPU"):
        ort._session(fp32_onnx.path, [("CUDAExecutionProvider", {})])


@pytest.mark.usefixtures("no_gpu")
def test_half_in_pytorch_is_refused_on_the_cpu_with_the_reason(reference: Artifact) -> None:
    with pytest.raises(BackendUnavailable, match=r"over ten times as long .*--runtime pytorch"):
        open_backend(reference, "auto", "pytorch-fp16")


def test_threads_are_what_was_asked_for(fp32_onnx: Artifact) -> None:
    with closing(open_backend(fp32_onnx, "cpu", "openvino", SessionOptions(1))) as opened:
        compiled = opened._request.get_compiled_model()  # type: ignore[attr-defined]  # OpenVINO's
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    with closing(open_backend(fp32_onnx, "cpu", "onnxruntime", SessionOptions(1))) as opened:
        options = opened._session.get_session_options()  # type: ignore[attr-defined]  # its own
        assert options.intra_op_num_threads == 1


def test_onnxruntime_does_not_keep_shared_cores_busy_while_it_waits(fp32_onnx: Artifact) -> None:
    entry = "session.intra_op.allow_spinning"
    with closing(
        open_backend(fp32_onnx, "cpu", "onnxruntime", SessionOptions(shares_cores=True))
    ) as opened:
        options = opened._session.get_session_options()  # type: ignore[attr-defined]  # its own
        assert options.get_session_config_entry(entry) == "0"
    with closing(open_backend(fp32_onnx, "cpu", "onnxruntime")) as opened:
        options = opened._session.get_session_options()  # type: ignore[attr-defined]  # its own
        with pytest.raises(RuntimeError, match="allow_spinning"):  # its default: they do
            options.get_session_config_entry(entry)


def test_runtime_that_takes_no_number_of_threads_refuses_one(reference: Artifact) -> None:
    with pytest.raises(BackendUnavailable, match="pytorch takes no number of threads"):
        open_backend(reference, "cpu", "pytorch", SessionOptions(2))


@pytest.mark.parametrize(
    ("runtime", "options", "said"),
    [
        ("pytorch", SessionOptions(streams=2), "pytorch computes one batch at a time on cpu"),
        ("onnxruntime", SessionOptions(cuda_graph=True), "no CUDA graph of onnxruntime on cpu"),
        ("openvino", SessionOptions(cuda_graph=True), "no CUDA graph of openvino on cpu"),
    ],
)
def test_what_a_runtime_cannot_do_is_refused(
    reference: Artifact, fp32_onnx: Artifact, runtime: str, options: SessionOptions, said: str
) -> None:
    artifact = reference if runtime == "pytorch" else fp32_onnx
    with pytest.raises(BackendUnavailable, match=said):
        open_backend(artifact, "cpu", runtime, options)


@pytest.mark.parametrize(
    ("wrong", "said"), [({"threads": 0}, "threads must be"), ({"streams": 0}, "streams must be")]
)
def test_options_that_mean_nothing_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SessionOptions(**wrong)  # type: ignore[arg-type]  # wrong on purpose


@pytest.fixture(
    scope="module",
    params=[
        "onnxruntime",
        "openvino",
        pytest.param("pytorch-fp16 cuda", marks=gpu),
        pytest.param("aotinductor cuda", marks=gpu),
        pytest.param("onnxruntime cuda", marks=[gpu, pytest.mark.ort_cuda]),
        pytest.param("tensorrt cuda", marks=[gpu, pytest.mark.tensorrt]),
    ],
)
def two_streams(request: pytest.FixtureRequest) -> Iterator[tuple[Backend, ...]]:
    runtime, _, device = request.param.partition(" ")
    fixture = {
        "pytorch-fp16": "reference",
        "aotinductor": "pt2_on_gpu",
        "tensorrt": "tensorrt_engine",
    }
    artifact = request.getfixturevalue(fixture.get(runtime, "fp32_onnx"))
    cuda_graph = device == "cuda"
    options = SessionOptions(streams=2, cuda_graph=cuda_graph)
    opened = open_backends(artifact, device or "cpu", runtime, options)
    yield opened
    for backend in opened:
        backend.close()


@pytest.fixture(scope="module")
def pt2_on_gpu(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("pt2") / "small.pt2"
    profiles = (Batch(1, 4, MAX_BATCH),)
    config = ExportConfig(
        checkpoint, out, Kind.PT2, Precision.FP32, profiles=profiles, device="cuda"
    )
    return export_model(config)[-1]


def test_streams_compute_at_the_same_time_what_each_computes_alone(
    two_streams: tuple[Backend, ...], frames: Images
) -> None:
    assert len(two_streams) == 2
    batches = [frames[start : start + size] for start, size in [(0, 3), (1, 3), (2, 1), (0, 5)] * 5]
    alone = [run(two_streams[0], batch) for batch in batches]

    def in_turn(backend: Backend) -> list[Foreground]:
        return [run(backend, batch) for batch in batches]

    with ThreadPoolExecutor(2) as pool:
        together = [future.result() for future in [pool.submit(in_turn, b) for b in two_streams]]
    for found in together:
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_array_equal(one, other)


@gpu
@pytest.mark.parametrize("runtime", ["pytorch", "pytorch-fp16"])
def test_cuda_graph_computes_what_its_network_does(
    reference: Artifact, frames: Images, runtime: str
) -> None:
    with (
        closing(open_backend(reference, "cuda", runtime)) as plain,
        closing(open_backend(reference, "cuda", runtime, SessionOptions(cuda_graph=True))) as graph,
    ):
        for size in (1, 4, 1, 3):
            for start in (0, 2):
                batch = frames[start : start + size]
                assert _levels_apart(run(graph, batch), run(plain, batch)) <= 1


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("cores", "streams", "threads"), [(1, 1, 1), (2, 2, 1), (8, 8, 1), (32, 8, 4), (20, 8, 2)]
)
def test_folders_get_a_stream_a_core_without_a_gpu(
    fp32_onnx: Artifact, reference: Artifact, cores: int, streams: int, threads: int
) -> None:
    spread = SessionOptions(threads, streams, shares_cores=True)
    for runtime in ("onnxruntime", "openvino"):
        assert for_folders(fp32_onnx.manifest, runtime, cores=cores) == spread
    eager = for_folders(reference.manifest, "pytorch", cores=cores)
    assert eager == SessionOptions(shares_cores=True)


@pytest.mark.parametrize(
    ("kind", "runtime", "streams", "cuda_graph"),
    [
        ("checkpoint", "pytorch", 1, True),
        ("checkpoint", "pytorch-fp16", 2, True),
        ("checkpoint", "torch-compile", 1, False),
        ("checkpoint", "torch-compile-fp16", 1, False),
        ("onnx", "onnxruntime", 2, False),
        ("tensorrt", "tensorrt", 2, True),
    ],
)
def test_folders_on_a_gpu_overlap_where_the_runtime_can(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    runtime: str,
    streams: int,
    cuda_graph: bool,
) -> None:
    monkeypatch.setattr("flowerseg.backends.device.resolve_device", lambda _: "cuda:0")
    manifest = Manifest(Kind(kind), "deeplabv3_resnet101", Precision.FP32, Preprocess())
    options = for_folders(manifest, runtime, "auto")
    assert (options.streams, options.cuda_graph) == (streams, cuda_graph)


def _proved_in(artifact: Artifact, *runtimes: str) -> Artifact:
    limits = Limits(0.0, 1.0, 1.0, 1.0, 1.0)
    proofs = tuple(
        Proof("proved", "here", runtime=runtime, limits=limits, device="cpu")
        for runtime in runtimes
    )
    return replace(artifact, manifest=replace(artifact.manifest, further_proofs=proofs))


def test_nobody_gets_fewer_bits_without_having_had_them_proved(
    fp32_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, coarse = _proved_in(fp32_onnx, "openvino"), _proved_in(fp32_onnx, "openvino-bf16")
    monkeypatch.setattr("flowerseg.backends.device.computes_bf16", lambda _: True)
    assert runtimes_here(exact.manifest, "cpu") == ["openvino", "onnxruntime"]
    assert fastest_proved(exact.manifest, "cpu") == "openvino"
    assert fastest_proved(coarse.manifest, "cpu") == "openvino-bf16"
    monkeypatch.setattr("flowerseg.backends.device.computes_bf16", lambda _: False)
    assert runtimes_here(coarse.manifest, "cpu") == ["openvino", "onnxruntime"]


@pytest.mark.parametrize(
    ("architecture", "precision", "flags", "first"),
    [
        ("deeplabv3_resnet101", Precision.FP32, "fma avx2", "onnxruntime"),
        ("deeplabv3_resnet101", Precision.FP32, "fma avx2 avx512f", "openvino"),
        ("deeplabv3_resnet101", Precision.INT8, "fma avx2", "openvino"),
        ("deeplabv3_mobilenet_v3_large", Precision.FP32, "fma avx2", "openvino"),
        ("deeplabv3_resnet50", Precision.FP32, "", "openvino"),  # not x86, or nobody tells
    ],
)
def test_runtimes_stand_in_the_order_that_was_measured(
    architecture: str,
    precision: Precision,
    flags: str,
    first: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowerseg.backends.device._cpuinfo", lambda _: flags)
    manifest = Manifest(Kind.ONNX, architecture, precision, Preprocess())
    assert runtimes_here(manifest, "cpu")[0] == first


def test_bfloat16_is_refused_where_the_processor_does_not_compute_it(
    fp32_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_, "computes_bf16", lambda _: False)
    with pytest.raises(BackendUnavailable, match=r"no bfloat16: use --runtime openvino"):
        open_backend(fp32_onnx, "cpu", "openvino-bf16")


def test_bfloat16_is_for_fp32_files(fp32_onnx: Artifact) -> None:
    manifest = replace(fp32_onnx.manifest, precision=Precision.FP16)
    with pytest.raises(BackendUnavailable, match="is for FP32 files, and this one is fp16"):
        open_backend(replace(fp32_onnx, manifest=manifest), "cpu", "openvino-bf16")


@pytest.mark.skipif(not computes_bf16("cpu"), reason="this processor computes no bfloat16")
def test_bfloat16_is_computed_and_said(
    fp32_onnx: Artifact, frames: Images, expected: Foreground
) -> None:
    with closing(open_backend(fp32_onnx, "cpu", "openvino-bf16")) as opened:
        compiled = opened._request.get_compiled_model()  # type: ignore[attr-defined]  # OpenVINO's
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"
        assert (opened.info.runtime, opened.info.precision) == ("openvino-bf16", "bf16")
        assert _levels_apart(run(opened, frames[:4]), expected[:4]) <= 24


def test_openvino_computes_fp32_models_in_fp32(fp32_onnx: Artifact) -> None:
    with closing(open_backend(fp32_onnx, "cpu", "openvino")) as opened:
        compiled = opened._request.get_compiled_model()  # type: ignore[attr-defined]  # OpenVINO's
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@pytest.mark.parametrize(
    ("fixture", "runtime"),
    [("reference", "onnxruntime"), ("fp32_onnx", "pytorch"), ("fp32_onnx", "tensorrt")],
)
def test_runtime_that_does_not_open_the_kind_is_refused(
    fixture: str, runtime: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(BackendUnavailable, match=f"{runtime} does not open files of kind"):
        open_backend(request.getfixturevalue(fixture), "cpu", runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_file_that_the_runtime_cannot_parse_is_an_artifact_error(
    fp32_onnx: Artifact, tmp_path: Path, runtime: str
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(fp32_onnx.path.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match=r"broken\.onnx: (ONNX Runtime|OpenVINO) refuses it"):
        open_backend(Artifact(broken, fp32_onnx.manifest), "cpu", runtime)
