"""A Triton model repository: read by Triton's own protobuf, served over gRPC, asked by the example.

The server here stands in for Triton: it refuses what the written `config.pbtxt` does not allow, and
runs what was written in ONNX Runtime.
"""

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from flowerseg.artifact import (
    Artifact,
    Batch,
    Kind,
    Manifest,
    Precision,
    open_artifact,
    publish,
    whole_range,
)
from flowerseg.backends import open_backend
from flowerseg.backends import run as run_backend
from flowerseg.data import PhotoSet
from flowerseg.errors import ExportError, OutputError
from flowerseg.images import read_rgb, resize_area, resize_bilinear
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Limits, Proof
from flowerseg.segmenter import Segmenter
from flowerseg_export.triton import (
    refuse_unservable,
    triton_config,
    triton_name,
    write_triton,
)

REASON = "the client of Triton is not installed: pip install 'flowerseg[triton]'"
grpc: Any = pytest.importorskip("grpc", reason=REASON)
text_format: Any = pytest.importorskip("google.protobuf.text_format", reason=REASON)
client: Any = pytest.importorskip("tritonclient.grpc", reason=REASON)
proto: Any = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason=REASON)
messages: Any = pytest.importorskip("tritonclient.grpc.service_pb2", reason=REASON)
services: Any = pytest.importorskip("tritonclient.grpc.service_pb2_grpc", reason=REASON)

CLIENT = Path(__file__).parents[2] / "export/triton_client.py"
SIZE_HW = (48, 96)  # not square, so that height taken for width shows
PROOF = Proof(
    "proved",
    "executed by onnxruntime 1.31.1 on “cpu”",
    Limits(0.998, 0.002),
    photos=6,
    data="flowers/val1[6] 0123456789ab",
    batch_sizes=(1, 3),
    agreement_iou=0.999874,
)
ONNX = Manifest(
    kind=Kind.ONNX,
    architecture="deeplabv3_resnet101",
    precision=Precision.FP16,
    preprocess=Preprocess(SIZE_HW),
    threshold=0.4,
    sha256="ab" * 32,
    proof=PROOF,
)
PLAN = dataclasses.replace(ONNX, kind=Kind.TENSORRT, batch=Batch(1, 16, 32))


@pytest.fixture
def plan(tmp_path: Path) -> Artifact:
    """What stands for a TensorRT engine: bytes under its manifest."""
    return publish(tmp_path / "flower.engine", PLAN, lambda path: _write(path, b"a plan"))


@pytest.fixture
def red(tmp_path: Path) -> Artifact:
    """An ONNX model whose probability is the red channel."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gather", ["images", "red"], ["foreground"], axis=3)],
        "red",
        [value("images", TensorProto.UINT8, ["batch", *SIZE_HW, 3])],
        [value("foreground", TensorProto.UINT8, ["batch", *SIZE_HW])],
        [helper.make_tensor("red", TensorProto.INT64, [], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return publish(tmp_path / "red.onnx", ONNX, lambda path: onnx.save(model, path))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "serving/models"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _parsed(text: str) -> Any:
    return text_format.Parse(text, proto.ModelConfig())


def _warmup(size: int) -> Any:
    images = proto.ModelWarmup.Input(data_type=proto.TYPE_UINT8, dims=[48, 96, 3], zero_data=True)
    return proto.ModelWarmup(name=f"batch of {size}", batch_size=size, inputs={"images": images})


def _expected(**special: Any) -> Any:
    """What every configuration of a frame of 48 × 96 says, and what is special to one."""
    latest = proto.ModelVersionPolicy.Latest(num_versions=1)
    said = {
        "flowerseg_sha256": "ab" * 32,
        "flowerseg_precision": "fp16",
        "flowerseg_threshold": "0.4",
        "flowerseg_proof": "proved: agreement with PyTorch FP32 IoU 0.99987 on 6 photos of "
        "flowers/val1[6] 0123456789ab; executed by onnxruntime 1.31.1 on “cpu”",
    }
    return proto.ModelConfig(
        name="flower",
        input=[proto.ModelInput(name="images", data_type=proto.TYPE_UINT8, dims=[48, 96, 3])],
        output=[proto.ModelOutput(name="foreground", data_type=proto.TYPE_UINT8, dims=[48, 96])],
        version_policy=proto.ModelVersionPolicy(latest=latest),
        parameters={key: proto.ModelParameter(string_value=said[key]) for key in said},
        **special,
    )


def test_onnx_is_served_by_onnx_runtime_wherever_there_is_a_processor() -> None:
    assert _parsed(triton_config(ONNX, "flower")) == _expected(
        backend="onnxruntime",
        default_model_filename="model.onnx",
        max_batch_size=64,
        instance_group=[proto.ModelInstanceGroup(count=1, kind=proto.ModelInstanceGroup.KIND_AUTO)],
        dynamic_batching=proto.ModelDynamicBatching(
            preferred_batch_size=[8], max_queue_delay_microseconds=100
        ),
        model_warmup=[_warmup(1), _warmup(8)],
    )


def _graphs(*sizes: int) -> Any:
    """CUDA graphs of batch sizes, of frames of 48 × 96."""
    cuda = proto.ModelOptimizationPolicy.Cuda
    images = {"images": cuda.GraphSpec.Shape(dim=[48, 96, 3])}
    specs = [cuda.GraphSpec(batch_size=size, input=images) for size in sizes]
    return proto.ModelOptimizationPolicy(cuda=cuda(graphs=True, graph_spec=specs))


def test_engine_is_served_by_tensorrt_on_gpus_with_the_batches_of_its_profile() -> None:
    assert _parsed(triton_config(PLAN, "flower")) == _expected(
        backend="tensorrt",
        default_model_filename="model.plan",
        max_batch_size=32,
        instance_group=[proto.ModelInstanceGroup(count=1, kind=proto.ModelInstanceGroup.KIND_GPU)],
        optimization=_graphs(1, 16),
        dynamic_batching=proto.ModelDynamicBatching(
            preferred_batch_size=[16], max_queue_delay_microseconds=100
        ),
        model_warmup=[_warmup(1), _warmup(16)],
    )


@pytest.mark.parametrize(
    ("profiles", "preferred", "sizes"),
    [
        ((Batch(1, 1, 1), Batch(2, 8, 16), Batch(17, 64, 64)), [8, 64], (1, 8, 64)),
        ((Batch(1, 2, 4), Batch(5, 16, 64)), [2, 16], (1, 2, 16)),
    ],
)
def test_engine_is_served_with_all_its_profiles_and_a_warm_graph_for_each(
    profiles: tuple[Batch, ...], preferred: list[int], sizes: tuple[int, ...]
) -> None:
    plan = dataclasses.replace(PLAN, batch=whole_range(profiles), profiles=profiles)
    gpu = proto.ModelInstanceGroup.KIND_GPU
    names = [str(index) for index in range(len(profiles))]
    assert _parsed(triton_config(plan, "flower")) == _expected(
        backend="tensorrt",
        default_model_filename="model.plan",
        max_batch_size=64,
        instance_group=[proto.ModelInstanceGroup(count=1, kind=gpu, profile=names)],
        optimization=_graphs(*sizes),
        dynamic_batching=proto.ModelDynamicBatching(
            preferred_batch_size=preferred, max_queue_delay_microseconds=100
        ),
        model_warmup=[_warmup(size) for size in sizes],
    )


def test_every_batch_size_with_a_graph_lies_in_a_profile_and_is_warmed_up() -> None:
    """Triton captures a graph in each profile that takes the size, and warms up what it is told."""
    profiles = (Batch(1, 3, 7), Batch(8, 8, 31), Batch(32, 48, 64))
    plan = dataclasses.replace(PLAN, batch=whole_range(profiles), profiles=profiles)
    config = _parsed(triton_config(plan, "flower"))
    captured = [spec.batch_size for spec in config.optimization.cuda.graph_spec]
    assert captured == [sample.batch_size for sample in config.model_warmup]
    for profile in profiles:
        assert any(profile.min <= size <= profile.max for size in captured)


def test_engine_for_single_frames_is_warmed_up_once() -> None:
    config = _parsed(triton_config(dataclasses.replace(PLAN, batch=Batch(1, 1, 1)), "flower"))
    assert config.max_batch_size == 1
    assert list(config.model_warmup) == [_warmup(1)]
    assert config.optimization == _graphs(1)


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (None, "not run"),
        (
            Proof("not run", "no labelled photos\nwere given"),
            "not run: no labelled photos\nwere given",
        ),
        (
            Proof("failed", 'under "trt"', PROOF.limits, 6, "val1", agreement_iou=0.5),
            'failed: agreement with PyTorch FP32 IoU 0.50000 on 6 photos of val1; under "trt"',
        ),
    ],
)
def test_configuration_says_what_the_proof_said(proof: Proof | None, said: str) -> None:
    config = _parsed(triton_config(dataclasses.replace(ONNX, proof=proof), "flower"))
    assert config.parameters["flowerseg_proof"].string_value == said


@pytest.mark.parametrize("kind", [Kind.CHECKPOINT, Kind.TENSORRT_RTX, Kind.PT2])
def test_kind_that_triton_has_no_backend_for_is_refused_before_anything_is_written(
    plan: Artifact, repository: Path, kind: Kind
) -> None:
    other = Artifact(plan.path, dataclasses.replace(plan.manifest, kind=kind))
    with pytest.raises(ExportError, match=f"not files of kind {kind}. Export with --to onnx or"):
        write_triton(other, repository)
    assert not repository.exists()


def test_engine_that_takes_no_single_frame_is_refused(plan: Artifact, repository: Path) -> None:
    manifest = dataclasses.replace(plan.manifest, batch=Batch(4, 8, 16))
    with pytest.raises(ExportError, match=r"batches of 4 and more.*--batch 1:8:16"):
        write_triton(Artifact(plan.path, manifest), repository)
    assert not repository.exists()


def test_file_is_judged_before_it_is_made_and_batch_sizes_bind_engines_only(
    repository: Path,
) -> None:
    coming = Path("coming.onnx")
    refuse_unservable(Kind.ONNX, coming, Batch(4, 8, 16), repository)
    (repository / "coming/1").mkdir(parents=True)
    refuse_unservable(Kind.ONNX, coming, None, repository, force=True)
    with pytest.raises(ExportError, match="coming exists"):
        refuse_unservable(Kind.ONNX, coming, None, repository)


def test_repository_holds_the_very_file_with_its_manifest(plan: Artifact, repository: Path) -> None:
    folder = write_triton(plan, repository)
    assert folder == repository / "flower"
    assert sorted(_files(repository)) == [
        "flower/1/model.plan",
        "flower/1/model.plan.json",
        "flower/config.pbtxt",
    ]
    assert open_artifact(folder / "1/model.plan").manifest == plan.manifest
    assert (folder / "1/model.plan").read_bytes() == b"a plan"
    assert (folder / "config.pbtxt").read_text() == triton_config(plan.manifest, "flower")


def test_server_under_another_user_may_read_it(plan: Artifact, repository: Path) -> None:
    plain = repository.parent / "plain"
    plain.mkdir(parents=True)
    version = write_triton(plan, repository) / "1"
    assert version.stat().st_mode == plain.stat().st_mode


def test_existing_model_is_refused_and_left_as_it_is(plan: Artifact, repository: Path) -> None:
    write_triton(plan, repository)
    before = _files(repository)
    with pytest.raises(ExportError, match=r"flower exists\. Say --force"):
        write_triton(plan, repository)
    assert _files(repository) == before


def test_configuration_written_by_hand_is_not_replaced_without_force(
    plan: Artifact, repository: Path
) -> None:
    (repository / "flower").mkdir(parents=True)
    (repository / "flower/config.pbtxt").write_text("mine")
    with pytest.raises(ExportError, match="flower exists"):
        write_triton(plan, repository)
    assert _files(repository) == {"flower/config.pbtxt": b"mine"}


def test_force_replaces_model_manifest_and_configuration(
    plan: Artifact, red: Artifact, repository: Path
) -> None:
    shutil.copy(red.path, red.path.with_name("flower.onnx"))
    write_triton(Artifact(red.path.with_name("flower.onnx"), red.manifest), repository)
    folder = write_triton(plan, repository, force=True)
    assert sorted(_files(folder)) == ["1/model.plan", "1/model.plan.json", "config.pbtxt"]
    assert _parsed((folder / "config.pbtxt").read_text()).backend == "tensorrt"


def test_model_that_would_not_be_served_because_of_a_higher_version_is_refused(
    plan: Artifact, repository: Path
) -> None:
    (repository / "flower/2").mkdir(parents=True)
    with pytest.raises(
        ExportError, match="holds version 2 too, and Triton would serve the highest"
    ):
        write_triton(plan, repository, force=True)
    assert sorted(path.name for path in (repository / "flower").iterdir()) == ["2"]


def test_nothing_is_named_like_a_version_until_it_is_whole(
    plan: Artifact, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    copy = shutil.copyfile

    def look(source: Path, target: Path) -> None:
        seen.extend(path.name for path in (repository / "flower").iterdir())
        assert [path.name for path in repository.iterdir()] == ["flower"]
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", look)
    write_triton(plan, repository)
    assert len(seen) == 1
    assert seen[0].startswith(".tmp-")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_copy_that_is_killed_leaves_no_model(
    plan: Artifact, repository: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(shutil, "copyfile", _half_way(error))
    with pytest.raises(error):
        write_triton(plan, repository)
    assert list(repository.iterdir()) == []


def test_copy_that_fails_leaves_the_old_model_as_it_was(
    plan: Artifact, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_triton(plan, repository)
    before = _files(repository)
    monkeypatch.setattr(shutil, "copyfile", _half_way(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OutputError, match="cannot be written: the disk is full"):
        write_triton(plan, repository, force=True)
    assert _files(repository) == before


def test_exchange_that_is_killed_leaves_no_version(
    plan: Artifact, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_triton(plan, repository)
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target == folder / "config.pbtxt":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_triton(plan, repository, force=True)
    assert sorted(_files(folder)) == ["config.pbtxt"]


def _half_way(error: BaseException | type[BaseException]) -> Callable[[Path, Path], None]:
    def copy(_: Path, target: Path) -> None:
        target.write_bytes(b"a pl")
        raise error

    return copy


def test_file_that_is_no_longer_the_proved_one_is_not_served(
    plan: Artifact, repository: Path
) -> None:
    plan.path.write_bytes(b"another plan")
    with pytest.raises(ExportError, match=r"flower\.engine: changed while it was copied"):
        write_triton(plan, repository)
    assert list(repository.iterdir()) == []


def test_repository_that_is_a_file_is_an_error_that_names_it(
    plan: Artifact, repository: Path
) -> None:
    repository.parent.mkdir()
    repository.write_text("")
    with pytest.raises(
        OutputError, match=r"serving/models/flower: cannot be written: .*models is a file"
    ):
        write_triton(plan, repository)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("flower.onnx", "flower"),
        ("a/b/Flower-fp16_2.engine", "Flower-fp16_2"),
        ("flower v2.1 (best).onnx", "flower_v2_1_best"),
        ("Blüte 3.onnx", "Bl_te_3"),
        (".onnx", "onnx"),
    ],
)
def test_name_needs_no_escaping(file: str, name: str) -> None:
    assert triton_name(Path(file)) == name


@pytest.mark.parametrize("file", ["花.onnx", "..onnx", "--.onnx"])
def test_file_whose_name_leaves_nothing_to_ask_for_is_refused(file: str) -> None:
    with pytest.raises(ExportError, match="Rename the file and its manifest"):
        triton_name(Path(file))


class _Server(services.GRPCInferenceServiceServicer):
    """Serves the one model of a repository, and refuses what its configuration does not allow."""

    def __init__(self, repository: Path) -> None:
        (folder,) = repository.iterdir()
        self.config = _parsed((folder / "config.pbtxt").read_text())
        artifact = open_artifact(folder / "1" / self.config.default_model_filename)
        self.backend = open_backend(artifact, "cpu")

    def ServerLive(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    def ModelReady(self, request: Any, context: Any) -> Any:
        return messages.ModelReadyResponse(ready=request.name == self.config.name)

    def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name != self.config.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        return messages.ModelConfigResponse(config=self.config)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        fault = _fault(request, self.config)
        if fault:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, fault)
        images = np.frombuffer(request.raw_input_contents[0], np.uint8)
        foreground = run_backend(self.backend, images.reshape(request.inputs[0].shape))
        output = messages.ModelInferResponse.InferOutputTensor(
            name=self.config.output[0].name, datatype="UINT8", shape=foreground.shape
        )
        return messages.ModelInferResponse(
            model_name=self.config.name,
            model_version="1",
            outputs=[output],
            raw_output_contents=[foreground.tobytes()],
        )


def _fault(request: Any, config: Any) -> str:
    """What Triton would refuse in a request, or nothing."""
    (declared,) = config.input
    if request.model_name != config.name or request.model_version not in ("", "1"):
        return "model"
    if [tensor.name for tensor in request.inputs] != [declared.name]:
        return "name"
    (tensor,) = request.inputs
    if f"TYPE_{tensor.datatype}" != proto.DataType.Name(declared.data_type):
        return "datatype"
    if list(tensor.shape[1:]) != list(declared.dims):
        return "dims"
    if not 1 <= tensor.shape[0] <= config.max_batch_size:
        return "batch"
    return "" if len(request.raw_input_contents[0]) == np.prod(tensor.shape) else "bytes"


@contextmanager
def _serving(repository: Path) -> Iterator[str]:
    """Address of a server of the repository."""
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        services.add_GRPCInferenceServiceServicer_to_server(_Server(repository), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait()


def _mask_of_the_example(model: Artifact, photo: Path, folder: Path) -> np.ndarray:
    """The mask (h, w) that the example writes when it asks a server of the model."""
    served = write_triton(model, folder / "repository")
    mask = folder / "mask.png"
    with _serving(served.parent) as address:
        ran = subprocess.run(
            [sys.executable, CLIENT, address, served.name, photo, mask],
            cwd=folder,
            env=os.environ | {"no_grpc_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ran.returncode == 0, ran.stderr
    pixels = read_rgb(mask)[..., 0]
    assert set(np.unique(pixels)) == {0, 255}
    return pixels == 255


def test_example_gets_the_mask_that_flowerseg_makes_itself(
    fp16_onnx: Artifact, val_photos: PhotoSet, tmp_path: Path
) -> None:
    item = val_photos.photos[0]
    with Segmenter.open(fp16_onnx.path, device="cpu") as segmenter:
        expected = segmenter.segment(item.read_rgb())
    mask = _mask_of_the_example(fp16_onnx, item.photo, tmp_path)
    np.testing.assert_array_equal(mask, expected)


def test_example_keeps_height_colours_and_threshold_apart(
    red: Artifact, val_photos: PhotoSet, tmp_path: Path
) -> None:
    item = val_photos.photos[0]
    rgb = item.read_rgb()
    frame = resize_area(rgb, (48, 96))
    expected = resize_bilinear(frame[..., 0], (80, 112)) >= 103  # 0.4 · 256 = 102.4
    mask = _mask_of_the_example(red, item.photo, tmp_path)
    np.testing.assert_array_equal(mask, expected)


@pytest.fixture
def ask(red: Artifact, repository: Path) -> Iterator[Callable[..., Any]]:
    """Asks a server of the red model with zeros, by Triton's own client."""
    write_triton(red, repository)

    def infer(name: str, datatype: str, shape: tuple[int, ...]) -> Any:
        kind = {"UINT8": np.uint8, "FP32": np.float32}[datatype]
        images = client.InferInput(name, shape, datatype)
        images.set_data_from_numpy(np.zeros(shape, kind))
        return asked.infer("red", [images]).as_numpy("foreground")

    with _serving(repository) as address, client.InferenceServerClient(address) as asked:
        assert asked.is_server_live()
        assert asked.is_model_ready("red")
        yield infer


@pytest.mark.parametrize("batch", [1, 64])
def test_batches_up_to_the_largest_are_served(ask: Callable[..., Any], batch: int) -> None:
    foreground = ask("images", "UINT8", (batch, 48, 96, 3))
    assert (foreground.dtype, foreground.shape) == (np.uint8, (batch, 48, 96))


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "fault"),
    [
        ("input", "UINT8", (1, 48, 96, 3), "name"),
        ("images", "FP32", (1, 48, 96, 3), "datatype"),
        ("images", "UINT8", (1, 3, 48, 96), "dims"),
        ("images", "UINT8", (1, 96, 48, 3), "dims"),
        ("images", "UINT8", (65, 48, 96, 3), "batch"),
    ],
)
def test_request_outside_the_contract_does_not_fit_the_configuration(
    ask: Callable[..., Any], name: str, datatype: str, shape: tuple[int, ...], fault: str
) -> None:
    with pytest.raises(client.InferenceServerException, match=fault):
        ask(name, datatype, shape)
