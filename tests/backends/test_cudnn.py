"""cuDNN's switches: TF32 is off for every FP32 convolution, whoever else computes meanwhile."""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from threading import Barrier, Event, get_ident
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, distributed

from flowerseg.arrays import Images
from flowerseg.artifact import Artifact, BuiltFor, Kind, Manifest, Precision
from flowerseg.backends import SessionOptions, open_backend, ort, pt2, pytorch, run, transfer
from flowerseg.backends.base import Layout
from flowerseg.backends.cudnn import CudnnSwitches, computed_with, cudnn_switches
from flowerseg.errors import BackendUnavailable
from flowerseg.model import FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg.train.processes import joined_processes
from flowerseg_export.config import ExportConfig
from flowerseg_export.export import export_model
from flowerseg_export.pt2 import write_pt2

IMAGES = torch.zeros((1, 8, 8, 3), dtype=torch.uint8)


@pytest.fixture(autouse=True)
def torch_allows_tf32() -> Iterator[None]:
    """What torch does by default, and what must be so again after each test."""
    cudnn = torch.backends.cudnn
    assert (cudnn.allow_tf32, cudnn.benchmark) == (True, False)
    yield
    assert (cudnn.allow_tf32, cudnn.benchmark) == (True, False)


def _switches_now() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


def test_switches_hold_inside_and_are_set_back_after_an_error() -> None:
    def fail() -> None:
        with cudnn_switches(CudnnSwitches(benchmark=True)):
            assert _switches_now() == (False, True)
            raise RuntimeError("planned")

    with pytest.raises(RuntimeError, match="planned"):
        fail()


def test_thread_that_ends_first_does_not_allow_tf32_under_the_others() -> None:
    both_inside, first_left = Barrier(2), Event()
    seen: list[tuple[bool, bool]] = []

    def leave_first() -> None:
        with cudnn_switches(CudnnSwitches()):
            both_inside.wait(30)
        first_left.set()

    def stay() -> None:
        with cudnn_switches(CudnnSwitches()):
            both_inside.wait(30)
            assert first_left.wait(30)
            seen.append(_switches_now())

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(stay), pool.submit(leave_first)]:
            future.result()
    assert seen == [(False, False)]


def test_thread_that_needs_other_switches_waits() -> None:
    entered, seen = Event(), []

    def other() -> None:
        entered.set()
        with cudnn_switches(CudnnSwitches(benchmark=True)):
            seen.append(_switches_now())

    with ThreadPoolExecutor(1) as pool:
        with cudnn_switches(CudnnSwitches()):
            waiting = pool.submit(other)
            assert entered.wait(30)
            assert _switches_now() == (False, False)
            assert not seen
        waiting.result(30)
    assert seen == [(False, True)]


def test_network_on_a_gpu_is_called_with_the_switches() -> None:
    seen: list[tuple[bool, bool]] = []

    def network(images: Tensor) -> Tensor:
        seen.append(_switches_now())
        return images

    computed_with(network, "cuda:0", CudnnSwitches(benchmark=True))(IMAGES)
    computed_with(network, "cuda:0", CudnnSwitches())(IMAGES)
    assert seen == [(False, True), (False, False)]
    assert computed_with(network, "cpu", CudnnSwitches()) is network


def test_timed_kernels_have_a_thread_of_their_own() -> None:
    """Torch keeps kernels by thread: without that, a kernel chosen by a rule would stay."""
    seen: list[tuple[int, bool]] = []

    def network(images: Tensor) -> Tensor:
        seen.append((get_ident(), torch.is_inference_mode_enabled()))
        return images

    timed = [computed_with(network, "cuda:0", CudnnSwitches(benchmark=True)) for _ in range(2)]
    with torch.inference_mode():
        timed[0](IMAGES)
        computed_with(network, "cuda:0", CudnnSwitches())(IMAGES)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(timed[1], IMAGES).result()
    (first, plain, second) = seen
    assert first[0] == second[0] != get_ident() == plain[0]
    assert (first[1], second[1]) == (True, False)


def test_package_on_a_gpu_computes_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's convolutions are torch's own, which read the switch when they run."""
    seen: list[bool] = []

    def loaded(images: Tensor) -> Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return images[..., 0]

    monkeypatch.setattr(pt2, "resolve_device", lambda _: "cuda:0")
    monkeypatch.setattr(pt2, "check_package_fits", lambda *_: None)
    monkeypatch.setattr(pt2, "_require_plain_package", lambda _: None)
    monkeypatch.setattr(pt2, "compute_capability", lambda _: "9.0")
    monkeypatch.setattr("flowerseg.backends.device.device_name", lambda _: "a GPU")
    monkeypatch.setattr(pt2, "batch_on", lambda _: transfer.HostBatch())
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda *_, **__: loaded)
    manifest = Manifest(
        Kind.PT2,
        "deeplabv3_resnet101",
        Precision.FP32,
        Preprocess((32, 32)),
        built_for=BuiltFor("a GPU", "9.0", "Linux"),
    )
    with closing(pt2.Pt2Backend(Artifact(Path("a.pt2"), manifest), "cuda")) as backend:
        run(backend, np.zeros((1, 32, 32, 3), np.uint8))
    assert seen == [False]


def test_package_is_compiled_without_tf32(
    small_network: FlowerNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("flowerseg_export.pt2.exported_program", lambda *_: None)
    monkeypatch.setattr(
        torch._inductor,
        "aoti_compile_and_package",
        lambda *_, **__: seen.append(torch.backends.cudnn.allow_tf32),
    )
    write_pt2(small_network, (64, 64), tmp_path / "a.pt2")
    assert seen == [False]


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["pytorch", "torch-compile", "aotinductor"])
def test_fp32_on_a_gpu_has_more_than_ten_bits_of_mantissa(
    reference: Artifact, small_network: FlowerNet, frames: Images, tmp_path: Path, runtime: str
) -> None:
    """With TF32 a few of a thousand probabilities are a level off; in FP32 nearly none is."""
    artifact = reference
    if runtime == "aotinductor":
        config = ExportConfig(reference.path, tmp_path / "a.pt2", Kind.PT2, device="cuda")
        (artifact,) = export_model(config)
    with torch.inference_mode():
        logits = small_network.double()(torch.from_numpy(frames)).numpy()
    small_network.float()
    exact = np.minimum(255, np.floor(256 / (1 + np.exp(-logits)))).astype(int)
    with closing(open_backend(artifact, "cuda", runtime)) as backend:
        found = run(backend, frames).astype(int)
    assert np.mean(found != exact) < 5e-4


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        SessionOptions(layout="channels-first"),
        SessionOptions(layout="channels-last"),
        SessionOptions(layout="channels-last", cudnn_benchmark=True),
        SessionOptions(layout="channels-first", cuda_graph=True),
    ],
)
def test_layouts_and_timed_kernels_compute_the_same_function(
    reference: Artifact, frames: Images, options: SessionOptions
) -> None:
    with (
        closing(open_backend(reference, "cpu", "pytorch")) as plain,
        closing(open_backend(reference, "cuda", "pytorch", options)) as backend,
    ):
        apart = np.abs(run(backend, frames[:5]).astype(int) - run(plain, frames[:5]))
    assert apart.max() <= 1


def test_backend_leaves_the_layout_of_a_network_in_training_alone(
    small_network: FlowerNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each epoch evaluates the network that trains, in the layout that its trainer chose."""
    monkeypatch.setattr(pytorch, "resolve_device", lambda _: "cuda:0")
    monkeypatch.setattr(pytorch, "device_name", lambda _: "a GPU")
    monkeypatch.setattr(pytorch, "batch_on", lambda _: transfer.HostBatch())
    network = copy.deepcopy(small_network).to(memory_format=torch.channels_last)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "to", lambda module, *_: module)  # to the GPU
        pytorch.PyTorchBackend(network, (64, 64), "cuda")
    assert not network.backbone._forward_pre_hooks
    assert network.head.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", ["channels-first", "channels-last", None])
def test_checkpoint_on_a_gpu_has_weights_and_activations_in_one_layout(
    reference: Artifact, frames: Images, monkeypatch: pytest.MonkeyPatch, layout: Layout | None
) -> None:
    opened: list[FlowerNet] = []
    monkeypatch.setattr(pytorch, "resolve_device", lambda _: "cuda:0")
    monkeypatch.setattr(pytorch, "PyTorchBackend", lambda net, *_, **__: opened.append(net))
    pytorch.open_checkpoint(reference, "cuda", SessionOptions(layout=layout))
    (network,) = opened
    wanted = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    with torch.inference_mode():
        features = network.features(torch.from_numpy(frames[:1]))
    assert features.is_contiguous(memory_format=wanted)
    assert network.head.weight.is_contiguous(memory_format=wanted)


@pytest.mark.gpu
def test_compiled_half_is_near_eager_half(reference: Artifact, frames: Images) -> None:
    with (
        closing(open_backend(reference, "cuda", "pytorch-fp16")) as eager,
        closing(open_backend(reference, "cuda", "torch-compile-fp16")) as compiled,
    ):
        assert compiled.info.precision == "fp16"
        for count in (1, 4):
            apart = np.abs(run(compiled, frames[:count]).astype(int) - run(eager, frames[:count]))
            assert np.mean(apart) < 0.5


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("runtime", "options", "said"),
    [
        ("torch-compile-fp16", SessionOptions(), "torch-compile-fp16 runs on a GPU"),
        ("pytorch", SessionOptions(cudnn_benchmark=True), "does not time cuDNN's kernels on cpu"),
        ("pytorch", SessionOptions(layout="channels-last"), "no memory layout on cpu"),
    ],
)
def test_what_only_a_gpu_does_is_refused_on_the_cpu(
    reference: Artifact, runtime: str, options: SessionOptions, said: str
) -> None:
    with pytest.raises(BackendUnavailable, match=said):
        open_backend(reference, "cpu", runtime, options)


def test_graphs_of_all_batch_sizes_share_one_memory_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[object] = []

    def capture(_: object, pool: object, **__: object) -> Any:
        pools.append(pool)
        return nullcontext()

    cuda = SimpleNamespace(
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: None),
        graph=capture,
        graph_pool_handle=lambda: (len(pools) + 1, 0),  # another one at every call
    )
    monkeypatch.setattr(transfer, "torch", SimpleNamespace(cuda=cuda))
    batch = SimpleNamespace(stream=None, synchronize=lambda: None)
    graph = transfer.CudaGraph(lambda images: images, batch)  # type: ignore[arg-type]
    images = {count: torch.zeros((count, 8, 8, 3), dtype=torch.uint8) for count in (1, 3, 8)}
    for count in (1, 8, 1, 3):
        graph(images[count])
    assert pools == [(1, 0)] * 3


class _Session:
    """Records in which thread, and with which graph, ONNX Runtime is run."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def io_binding(self) -> Any:
        return SimpleNamespace(bind_input=lambda *_: None, bind_output=lambda *_: None)

    def run_with_iobinding(self, _: object, __: object) -> None:
        self.threads.append(get_ident())


@pytest.mark.parametrize(("cuda_graph", "threads"), [(True, 1), (False, 2)])
def test_onnxruntime_replays_its_graphs_in_one_thread_whoever_calls(
    monkeypatch: pytest.MonkeyPatch, cuda_graph: bool, threads: int
) -> None:
    """It keeps graphs by thread: each new thread would capture them again."""
    session = _Session()
    memory = SimpleNamespace(images=IMAGES, foreground=IMAGES[..., 0])
    batch = SimpleNamespace(
        stream=SimpleNamespace(cuda_stream=0), upload=lambda _: None, memory=lambda _: memory
    )
    monkeypatch.setattr(ort, "DeviceBatch", lambda _: batch)
    monkeypatch.setattr(ort, "_session", lambda *_: session)
    monkeypatch.setattr(ort, "_info", lambda *_: None)
    file: Any = SimpleNamespace(path=Path("a.onnx"), manifest=SimpleNamespace(quantised_for=""))
    backend = ort.OrtCudaBackend(file, "cuda:0", SessionOptions(cuda_graph=cuda_graph))

    def execute() -> None:
        backend.upload(np.zeros((1, 8, 8, 3), np.uint8))
        backend.execute()

    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(execute).result()
        execute()
    backend.close()
    # Without graphs the caller's threads: this one, and one for each pool (whose number the
    # system may give out again).
    assert len(session.threads) == 4
    assert (len(set(session.threads)) == 1) is (threads == 1)
    assert (get_ident() in session.threads) is (threads == 2)


@pytest.mark.parametrize(
    ("provider", "entry"), [("CUDAExecutionProvider", "1"), ("CPUExecutionProvider", None)]
)
def test_onnxruntime_on_cuda_may_not_fall_back_to_the_cpu_for_single_nodes(
    monkeypatch: pytest.MonkeyPatch, provider: str, entry: str | None
) -> None:
    name = "session.disable_cpu_ep_fallback"
    found: list[str | None] = []

    def session(_: object, sess_options: Any, **__: object) -> Any:
        try:
            found.append(sess_options.get_session_config_entry(name))
        except RuntimeError:  # not set
            found.append(None)
        return SimpleNamespace(get_providers=lambda: [provider])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    ort._session(b"", [(provider, {})])
    assert found == [entry]


def test_build_of_onnxruntime_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match=r"is a build without CUDA.*onnxruntime-gpu"):
        ort._session(b"", [("CUDAExecutionProvider", {})])


def test_each_rank_tells_nccl_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(
        distributed, "init_process_group", lambda backend, **rest: given.update(rest, b=backend)
    )
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    with joined_processes("cuda:1") as processes:
        assert (processes.rank, processes.world) == (1, 2)
    assert (given["b"], given["device_id"]) == ("nccl", torch.device("cuda:1"))
