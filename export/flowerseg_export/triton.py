"""A model file in a model repository of NVIDIA's Triton Inference Server, ready to be served.

    REPOSITORY/flower/config.pbtxt           what Triton checks every request against
    REPOSITORY/flower/1/model.onnx           the very bytes that were proved (model.plan: an engine)
    REPOSITORY/flower/1/model.onnx.json      their manifest, so that flowerseg opens them there too

The layout and the fields are those of model_repository.md, model_configuration.md, optimization.md
and batcher.md in Triton's user guide, and of its model_config.proto. What Triton's TensorRT backend
does with profiles and graphs is in its src/instance_state.cc (read at e2ef6d7).
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from flowerseg.abandoned import remove_abandoned, temporary_folder
from flowerseg.arrays import SizeHW
from flowerseg.artifact import Artifact, Batch, Kind, Manifest, manifest_path
from flowerseg.errors import ExportError, some_of
from flowerseg.files import explained, replacing, sha256_of, write_text
from flowerseg.printable import printable_lines
from flowerseg.proofrecord import Proof

CONFIG = "config.pbtxt"
VERSION = "1"

MAX_QUEUE_DELAY_US = 100
"""How long a lone request waits for others to share its batch, in microseconds.

The value in Triton's batcher.md. It is the most that batching may cost a client who is alone, and
far below the milliseconds of one execution; who has many clients raises it.
"""


@dataclass(frozen=True)
class _Served:
    backend: str  # Triton's name for what runs the file
    file: str  # the name under which that backend looks for it
    instances: str


_SERVED = {
    Kind.ONNX: _Served("onnxruntime", "model.onnx", "KIND_AUTO"),  # on GPUs, else on the CPU
    Kind.TENSORRT: _Served("tensorrt", "model.plan", "KIND_GPU"),
}


def write_triton(artifact: Artifact, repository: Path, *, force: bool = False) -> Path:
    """Put a model file into a Triton model repository, ready to be served.

    Whether an unproven file may be served is for the caller to decide (`artifact.require_proof`);
    the configuration says what the proof said.

    Args:
        artifact: an ONNX file or a TensorRT engine.
        repository: the folder that Triton is started with; made where there is none.
        force: replace a model of the same name.

    Returns:
        The model's folder; its name is the one that clients ask for.

    Raises:
        ExportError: as `refuse_unservable`, or the file changed while it was copied.
        OutputError: the repository cannot be written.
    """
    manifest = artifact.manifest
    refuse_unservable(manifest.kind, artifact.path, manifest.batch, repository, force=force)
    folder = repository / triton_name(artifact.path)
    with explained(folder):
        _install(artifact, triton_config(manifest, folder.name), folder)
    return folder


def refuse_unservable(
    kind: Kind, path: Path, batch: Batch | None, repository: Path, *, force: bool = False
) -> None:
    """Refuse what `write_triton` would, before the minutes of work that make the file.

    Args:
        kind: what the file is, or will be.
        path: where it is, or will be.
        batch: batch sizes that an engine takes; of no meaning for an ONNX file, which takes any.
        repository: the folder that Triton is started with.
        force: replace a model of the same name.

    Raises:
        ExportError: Triton has no backend for the kind, the engine takes no single frame, the name
            is none to ask for, a higher version is there, or the model is and `force` is not set.
    """
    _served(kind)
    if kind is Kind.TENSORRT and batch and batch.min > 1:
        raise ExportError(
            f"{path}: takes batches of {batch.min} and more, and Triton sends a single frame when "
            f"no others wait. Build it with --batch 1:{batch.opt}:{batch.max}."
        )
    folder = repository / triton_name(path)
    others = sorted(entry.name for entry in folder.glob("[0-9]*") if entry.name != VERSION)
    if others:
        raise ExportError(
            f"{folder}: holds version {some_of(others)} too, and Triton would serve the highest. "
            "Remove it, or rename the model file."
        )
    if not force and any(folder.glob("[!.]*")):
        raise ExportError(f"{folder} exists. Say --force to replace it, or rename the model file.")


def triton_config(manifest: Manifest, name: str) -> str:
    """The text of `config.pbtxt` for a model file.

    Triton refuses every request that does not fit it and batches waiting requests. Before it calls
    the model ready, it runs a batch of 1 and the best batch of each optimisation profile; of these
    sizes it captures CUDA graphs where TensorRT runs the model. It tells clients the `parameters`:
    which file is served, and what is known of it.

    Raises:
        ExportError: Triton has no backend for this kind.
    """
    served = _served(manifest.kind)
    ranges = manifest.ranges or (Batch(),)
    sizes = sorted({1, *(batch.opt for batch in ranges)})
    height, width = manifest.preprocess.size_hw
    images = f"data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ]"
    return _CONFIG.substitute(
        name=_quoted(name),
        backend=_quoted(served.backend),
        file=_quoted(served.file),
        max_batch=ranges[-1].max,
        # With 1 among them Triton would run a lone request at once, and never wait for others.
        best_batches=", ".join(str(size) for size in sizes[1:] or sizes),
        images=images,
        foreground=f"data_type: TYPE_UINT8 dims: [ {height}, {width} ]",
        execution=_execution(manifest, served, sizes),
        delay_us=MAX_QUEUE_DELAY_US,
        warmups="\n".join(_warmup(size, images) for size in sizes),
        parameters="\n".join(_parameter(*item) for item in _parameters(manifest).items()),
    )


def triton_name(path: Path) -> str:
    """Name of the model: the file's stem, with `_` for what would need escaping in a URL.

    Raises:
        ExportError: nothing of the stem is left.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_-")
    if not name:
        raise ExportError(
            f"{path}: no letter or digit of ASCII in the name, and clients ask for the model by "
            "it. Rename the file and its manifest."
        )
    return name


_CONFIG = Template("""\
name: $name
backend: $backend
default_model_filename: $file
max_batch_size: $max_batch
input { name: "images" $images }
output { name: "foreground" $foreground }
version_policy { latest { num_versions: 1 } }
$execution
dynamic_batching {
  preferred_batch_size: [ $best_batches ]
  max_queue_delay_microseconds: $delay_us
}
$warmups
$parameters
""")


def _served(kind: Kind) -> _Served:
    if kind not in _SERVED:
        raise ExportError(
            f"Triton serves ONNX files and engines of TensorRT itself, not files of kind {kind}. "
            "Export with --to onnx or --to tensorrt."
        )
    return _SERVED[kind]


def _execution(manifest: Manifest, served: _Served, sizes: Sequence[int]) -> str:
    """The lines that say where the model runs; for engines with their profiles and CUDA graphs."""
    group = f"instance_group {{ count: 1 kind: {served.instances}"
    if manifest.kind is not Kind.TENSORRT:  # Triton knows profiles and graphs of engines only
        return f"{group} }}"
    indices = ", ".join(_quoted(str(index)) for index in range(len(manifest.ranges)))
    # Without names Triton takes the first profile alone.
    profiles = f" profile: [ {indices} ]" if len(manifest.ranges) > 1 else ""
    graphs = "\n".join(f"    {_graph(size, manifest.preprocess.size_hw)}" for size in sizes)
    return f"{group}{profiles} }}\noptimization {{\n  cuda {{\n    graphs: true\n{graphs}\n  }}\n}}"


def _graph(size: int, size_hw: SizeHW) -> str:
    height, width = size_hw
    images = f'input {{ key: "images" value {{ dim: [ {height}, {width}, 3 ] }} }}'
    return f"graph_spec {{ batch_size: {size} {images} }}"


def _warmup(size: int, images: str) -> str:
    inputs = f'inputs {{ key: "images" value {{ {images} zero_data: true }} }}'
    return f'model_warmup {{ name: "batch of {size}" batch_size: {size} {inputs} }}'


def _parameters(manifest: Manifest) -> dict[str, str]:
    return {
        "flowerseg_sha256": manifest.sha256,
        "flowerseg_precision": str(manifest.precision),
        "flowerseg_threshold": str(manifest.threshold),
        "flowerseg_proof": _proof_words(manifest.proof),
    }


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _proof_words(proof: Proof | None) -> str:
    if proof is None:
        return "not run"
    if proof.agreement_iou is None:
        return f"{proof.status}: {proof.how}"
    return (
        f"{proof.status}: agreement with PyTorch FP32 IoU {proof.agreement_iou:.5f} "
        f"on {proof.photos} photos of {proof.data}; {proof.how}"
    )


def _quoted(text: str) -> str:
    # Protobuf's text format escapes a string the way JSON does, and takes UTF-8 as it is.
    # A name of a file may hold bytes that are no UTF-8.
    return json.dumps(printable_lines(text), ensure_ascii=False)


def _install(artifact: Artifact, config: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Inside the model's folder Triton skips what is not named by a number. Beside it, the
        # half-written folder would be a model of its own, which fails to load and stops the server.
        remove_abandoned(folder)
        with temporary_folder(folder) as staged:
            _stage(artifact, config, staged)
            _swap_in(staged, folder)
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()  # it too would be a model that fails to load


def _stage(artifact: Artifact, config: str, staged: Path) -> None:
    manifest = artifact.manifest
    (staged / VERSION).mkdir()
    model = staged / VERSION / _served(manifest.kind).file
    with replacing(model) as temporary:
        shutil.copyfile(artifact.path, temporary)
        if sha256_of(temporary) != manifest.sha256:
            raise ExportError(f"{artifact.path}: changed while it was copied. Export it again.")
    write_text(manifest_path(model), manifest.to_json())
    write_text(staged / CONFIG, config)


def _swap_in(staged: Path, folder: Path) -> None:
    """Three renames, the version last: killed between them, what is left is a model without a
    version, which Triton does not load."""
    version = folder / VERSION
    if version.exists():
        version.rename(staged / "replaced")
    (staged / CONFIG).replace(folder / CONFIG)
    (staged / VERSION).rename(version)
