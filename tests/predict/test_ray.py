"""A folder through a Ray cluster on this machine, against the same folder without one."""

import csv
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from onnx import TensorProto, helper, numpy_helper

from flowerseg.arrays import Rgb
from flowerseg.artifact import Batch, Kind, Manifest, Precision, publish
from flowerseg.cli.predict import predict
from flowerseg.errors import (
    ArtifactError,
    BackendUnavailable,
    DataError,
    ImageError,
    Stopped,
)
from flowerseg.images import write_jpeg, write_png
from flowerseg.listing import list_photos
from flowerseg.predict import FolderReport, PhotoResult, PredictSettings, Save, segment_listing
from flowerseg.predict.ray_ import Opening, segment_listing_on_ray
from flowerseg.predict.remote import RemoteFolder, is_remote
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Proof
from flowerseg.segmenter import Segmenter

# Only this machine hears of it. Both are read as Ray is imported, by its processes too.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'flowerseg[ray]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

SIDE = 32
SETTINGS = PredictSettings(batch=2, workers=1, save=(Save.MASK, Save.CUTOUT))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs, so two actors of one CPU each."""
    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX with the contract and one node: `foreground` is the green channel."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])
    foreground = helper.make_tensor_value_info(
        "foreground", TensorProto.UINT8, ["batch", SIDE, SIDE]
    )
    gather = helper.make_node("Gather", ["images", "green"], ["foreground"], axis=3)
    green = numpy_helper.from_array(np.array(1, np.int64), "green")
    graph = helper.make_graph([gather], "green", [images], [foreground], [green])
    opset = [helper.make_opsetid("", 18)]
    network = helper.make_model(graph, opset_imports=opset, ir_version=10)
    path = tmp_path_factory.mktemp("model") / "green.onnx"
    manifest = Manifest(
        kind=Kind.ONNX,
        architecture="green",
        precision=Precision.FP32,
        preprocess=Preprocess((SIDE, SIDE)),
        batch=Batch(1, 2, 4),
        proof=Proof(status="proved", how="test", device="cpu", streams=8),
    )
    publish(path, manifest, lambda file: onnx.save(network, str(file)))
    return path


def _photo(seed: int) -> Rgb:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 90, 2).tolist()
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """60 photos in nested folders, one of them cut off and one that is none."""
    for i in range(58):
        write_jpeg(tmp_path / "photos" / f"{i % 3}" / f"{i:02} é.jpg", _photo(i))
    write_png(tmp_path / "photos/cut.png", _photo(99))
    os.truncate(tmp_path / "photos/cut.png", 700)
    (tmp_path / "photos/text.jpg").write_text("no photo")
    return tmp_path / "photos"


def _opening(model: Path) -> Opening:
    return Opening(model, runtime="onnxruntime")


def _files(out: Path) -> dict[str, bytes]:
    """Masks and cutouts, and results.csv but for the time that photos took."""
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for kind in ("masks", "cutouts")
        for path in (out / kind).rglob("*")
        if path.is_file()
    }
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [sorted((row | {"milliseconds": ""}).items()) for row in csv.DictReader(file)]
    return found | {"rows": repr(rows).encode()}


def _on_ray(
    photos: Path, model: Path, out: Path, watcher: "_Watcher | None" = None
) -> FolderReport:
    listing = list_photos(photos, out)
    return segment_listing_on_ray(listing, _opening(model), out, SETTINGS, watcher)


class _Watcher:
    """Kills an actor when the first photo comes back."""

    def __init__(self, does_kill: bool = False) -> None:
        self._does_kill = does_kill
        self.notes: list[str] = []
        self.killed: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def photo(self, result: PhotoResult, *, is_kept: bool) -> None:
        if self._does_kill and not self.killed:
            self.killed = _actors()[:1]
            os.kill(self.killed[0], signal.SIGKILL)


def _actors() -> list[int]:
    """Processes of actors that segment; there are no others on a cluster that is only ours."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.read_bytes().startswith(b"ray::MapWorker(MapBatches(_Actor")
    ]


@pytest.mark.slow
def test_outputs_are_those_of_one_machine_although_an_actor_is_killed(
    photos: Path, model: Path, tmp_path: Path, cluster: None
) -> None:
    with Segmenter.open(model, device="cpu", runtime="onnxruntime") as segmenter:
        listing = list_photos(photos, tmp_path / "here")
        segment_listing(listing, segmenter, tmp_path / "here", SETTINGS)
    watcher = _Watcher(does_kill=True)

    report = _on_ray(photos, model, tmp_path / "ray", watcher)

    assert len(watcher.killed) == 1
    assert ": 2 actors with 1 CPUs and 0 GPUs each, onnxruntime" in watcher.notes[0]
    assert _files(tmp_path / "ray") == _files(tmp_path / "here")
    assert (report.run.counts.ok, report.run.counts.failed) == (58, 2)
    assert [result.path for result in report.failed] == ["cut.png", "text.jpg"]


@pytest.mark.slow
def test_run_goes_on_where_another_stopped_with_photos_from_wherever_fsspec_reaches(
    photos: Path, model: Path, tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    # Paths without a slash at their start, as those of object stores.
    store = RemoteFolder(DirFileSystem(str(tmp_path), LocalFileSystem()), "photos")
    monkeypatch.setattr(RemoteFolder, "at", lambda uri: store)
    command = ["store://photos", "--out", str(out), "--model", str(model), "--save", "mask,cutout"]
    command += ["--batch", "2", "--runtime", "onnxruntime", "--device", "cpu", "--json"]
    first = CliRunner().invoke(predict, command)
    assert first.exit_code == 1, first.output  # two photos are bad
    whole = _files(out)
    (out / "masks/0/00 é.jpg.png").unlink()
    write_jpeg(photos / "0/03 é.jpg", _photo(1000))

    second = CliRunner().invoke(predict, [*command, "--workers", "1", "--engine", "ray"])

    assert second.exit_code == 1, second.output
    assert ": 2 actors" in second.stderr
    effort = json.loads(second.stdout)["effort"]
    assert (effort["kept"], effort["segmented"]) == (56, 2)
    changed = {name for name, content in _files(out).items() if content != whole[name]}
    assert changed == {"masks/0/03 é.jpg.png", "cutouts/0/03 é.jpg.png", "rows"}


def test_what_an_actor_finds_wrong_is_raised_as_it_is(
    photos: Path, model: Path, tmp_path: Path, cluster: None
) -> None:
    changed = tmp_path / "green.onnx"
    changed.write_bytes(model.read_bytes() + b"\0")
    Path(f"{changed}.json").write_bytes(Path(f"{model}.json").read_bytes())
    with pytest.raises(ArtifactError, match="not the one its manifest describes") as raised:
        _on_ray(photos, changed, tmp_path / "out")
    assert "Traceback" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_gpu_that_no_machine_has_is_refused(
    photos: Path, model: Path, tmp_path: Path, cluster: None
) -> None:
    listing = list_photos(photos, tmp_path / "out")
    with pytest.raises(BackendUnavailable, match="no machine of the Ray cluster has a GPU"):
        segment_listing_on_ray(listing, Opening(model, device="cuda"), tmp_path / "out")


def test_run_that_is_told_to_stop_says_how_to_go_on(
    photos: Path, model: Path, tmp_path: Path, cluster: None
) -> None:
    stop = threading.Event()
    stop.set()
    listing = list_photos(photos, tmp_path / "out")
    with pytest.raises(Stopped, match=r"of 60 photos are done\. Run the same again"):
        segment_listing_on_ray(listing, _opening(model), tmp_path / "out", SETTINGS, None, stop)


def test_remote_folder_lists_photos_as_a_local_one_does() -> None:
    remote = RemoteFolder.at("memory://bucket/photos")
    for name in ("b.jpg", "a/é.PNG", "a/.hidden.jpg", ".cache/c.jpg", "notes.txt"):
        remote.system.pipe_file(f"{remote.base}/{name}", name.encode())
    listing = remote.photos()
    assert [path.as_posix() for path in listing.photos] == ["a/é.PNG", "b.jpg"]
    assert listing.skipped == 3
    assert remote.read(listing.folder / "a/é.PNG") == "a/é.PNG".encode()
    with pytest.raises(ImageError, match=r"gone\.jpg: cannot be read"):
        remote.read(listing.folder / "gone.jpg")
    with pytest.raises(DataError, match="no photos in it"):
        RemoteFolder.at("memory://bucket/photos/a/b").photos()


def test_uri_of_an_unknown_kind_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match="gopher://photos: cannot be opened"):
        RemoteFolder.at("gopher://photos")
    assert [is_remote(folder) for folder in ("s3://a/b", "a/b", "-", "C:/a")] == [True] + 3 * [
        False
    ]
