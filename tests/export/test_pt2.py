"""AOTInductor packages: compiled for one device, refused on others."""

import dataclasses
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flowerseg.arrays import Images
from flowerseg.artifact import Artifact, BuiltFor, Kind, Manifest, Precision, open_artifact, publish
from flowerseg.backends import open_backend, run
from flowerseg.backends.device import cpu_features
from flowerseg.backends.pt2 import Pt2Backend, check_package_fits
from flowerseg.errors import ArtifactError, BackendUnavailable, ExportError
from flowerseg.model import FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg_export.config import ExportConfig
from flowerseg_export.export import export_model
from flowerseg_export.pt2 import write_pt2

SIZE_HW = (64, 64)


def _package(folder: Path, capability: str) -> Artifact:
    """A file that claims to be compiled for the CPU, or for a GPU of this compute capability."""
    manifest = Manifest(
        kind=Kind.PT2,
        architecture="deeplabv3_mobilenet_v3_large",
        precision=Precision.FP32,
        preprocess=Preprocess(SIZE_HW),
        built_for=BuiltFor("", capability, "Linux"),
        rebuild="flowerseg-export best.pt --to pt2",
    )
    return publish(folder / "a.pt2", manifest, lambda path: _write(path))


def _write(path: Path) -> None:
    path.write_bytes(b"no package")


@pytest.mark.slow
def test_package_is_whole_and_names_its_checkpoint(
    pt2_package: Artifact, reference: Artifact
) -> None:
    manifest = open_artifact(pt2_package.path).manifest
    assert manifest.kind is Kind.PT2
    assert [parent.sha256 for parent in manifest.parents] == [reference.manifest.sha256]
    assert manifest.built_for is not None
    assert manifest.built_for.compute_capability == ""
    assert sorted(path.name for path in pt2_package.path.parent.iterdir()) == [
        "small.pt2",
        "small.pt2.json",
    ]


@pytest.mark.slow
def test_package_takes_a_larger_batch_than_the_example(
    pt2_package: Artifact, frames: Images
) -> None:
    foreground = run(open_backend(pt2_package, "cpu"), np.concatenate([frames, frames]))
    np.testing.assert_array_equal(foreground[:24], foreground[24:])


@pytest.mark.slow
def test_package_runs_without_the_models_python_code(
    pt2_package: Artifact, checkpoint: Path, frames: Images, tmp_path: Path
) -> None:
    """A process that could not import the network gives what the network gives."""
    np.save(tmp_path / "frames.npy", frames[:3])
    script = f"""
        import sys
        import numpy as np

        sys.modules["torchvision"] = sys.modules["flowerseg.model"] = None  # importing them fails
        from flowerseg.segmenter import Segmenter

        images = np.load("frames.npy")
        model = {str(pt2_package.path)!r}
        with Segmenter.open(model, device="cpu", allow_unproven=True) as segmenter:
            np.save("foreground.npy", segmenter.infer(list(images)))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, check=True)
    expected = run(open_backend(open_artifact(checkpoint), "cpu"), frames[:3])
    foreground = np.load(tmp_path / "foreground.npy")
    assert np.abs(foreground.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_package_in_half_is_half_as_large_and_proved(
    checkpoint: Path, pt2_package: Artifact, painted: Path, tmp_path: Path
) -> None:
    config = ExportConfig(
        checkpoint,
        tmp_path / "half.pt2",
        Kind.PT2,
        Precision.FP16,
        data=painted,
        limit=2,
        device="cpu",
    )
    (package,) = export_model(config)
    assert package.manifest.proof is not None
    assert package.manifest.proof.status == "proved"
    # The compiled code, which does not shrink, is a small part beside 20 MB of weights.
    assert package.path.stat().st_size < 0.65 * pt2_package.path.stat().st_size


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_package_for_a_gpu_does_not_run_on_the_cpu(tmp_path: Path, device: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"--device cpu|was compiled for cuda"):
        open_backend(_package(tmp_path, "9.0"), device)


def test_package_that_torch_cannot_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a\.pt2: not a package that PyTorch has written"):
        open_backend(_package(tmp_path, ""), "cpu")


def test_compiler_that_fails_is_an_error_that_names_what_it_needs(
    small_network: FlowerNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("traceback\nInvalidCxxCompiler: g++ not found")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(ExportError, match=r"g\+\+ not found\. It needs a C\+\+ compiler \(apt"):
        write_pt2(small_network, SIZE_HW, tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


FITS = ("2.11.0+cu130", "9.0", "Linux", ("avx2", "avx512f"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2.12.0"}, r"PyTorch 2\.11\.1, this machine has 2\.12\.0"),
        ({"capability": "8.9"}, r"compute capability 9\.0, this GPU has 8\.9"),
        ({"system": "Windows"}, "system Linux, this machine has Windows"),
        ({"features": ("avx2",)}, "a processor with avx512f, which this one lacks"),
    ],
)
def test_package_of_another_machine_is_refused_before_its_code_is_loaded(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    package = _package(tmp_path, "9.0")
    built_for = BuiltFor("NVIDIA H100", "9.0", "Linux", ("avx2", "avx512f"))
    manifest = dataclasses.replace(
        package.manifest, built_for=built_for, versions={"torch": "2.11.1"}
    )
    made = Artifact(package.path, manifest)
    machine = dict(zip(("version", "capability", "system", "features"), FITS, strict=True))
    check_package_fits(made, **machine)  # type: ignore[arg-type]  # the same release, the same GPU
    with pytest.raises(ArtifactError, match=f"{said}.*Compile it on the machine that runs it"):
        check_package_fits(made, **machine | change)  # type: ignore[arg-type]


def test_opening_a_package_checks_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda *_, **__: 1 / 0)
    package = _package(tmp_path, "")
    manifest = dataclasses.replace(package.manifest, versions={"torch": "1.0"})
    with pytest.raises(ArtifactError, match=r"compiled for PyTorch 1\.0"):
        open_backend(Artifact(package.path, manifest), "cpu")


@pytest.mark.slow
def test_package_names_the_processor_that_compiled_it(pt2_package: Artifact) -> None:
    built_for = pt2_package.manifest.built_for
    assert built_for is not None
    assert built_for.cpu_features == cpu_features()


@pytest.mark.parametrize(("is_cuda", "layouts"), [(True, [torch.channels_last]), (False, [])])
def test_weights_for_a_gpu_are_channels_last_before_they_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cuda: bool, layouts: list[object]
) -> None:
    found: list[object] = []

    class Network:
        """Says where its weights are, and keeps the layouts that it is brought into."""

        mean = SimpleNamespace(is_cuda=is_cuda)

        def to(self, memory_format: object) -> "Network":
            found.append(memory_format)
            return self

    monkeypatch.setattr("flowerseg_export.pt2.exported_program", lambda *_: list(found))
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *_, **__: None)
    write_pt2(Network(), SIZE_HW, tmp_path / "a.pt2")  # type: ignore[arg-type]
    assert found == layouts


def test_package_without_device_is_taken_for_the_cpus(tmp_path: Path) -> None:
    package = _package(tmp_path, "")
    unnamed = Artifact(package.path, dataclasses.replace(package.manifest, built_for=None))
    with pytest.raises(ArtifactError, match="not a package that PyTorch has written"):
        open_backend(unnamed, "cpu")


@pytest.mark.parametrize(
    "name", ["../../evil.so", "/tmp/evil.so", "data/aotinductor/model/../../x"]
)
def test_package_with_a_name_that_leaves_its_folder_is_never_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """torch's own reader would write the member there."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"evil")

    manifest = Manifest(
        kind=Kind.PT2,
        architecture="any",
        precision=Precision.FP32,
        preprocess=Preprocess(),
        versions={"torch": torch.__version__},
    )
    artifact = publish(tmp_path / "a.pt2", manifest, write)
    monkeypatch.setattr(
        torch._inductor, "aoti_load_package", lambda *_, **__: pytest.fail("it was unpacked")
    )
    with pytest.raises(ArtifactError, match="outside of its folder"):
        Pt2Backend(artifact, "cpu")
