"""A model file and the manifest beside it: what it is, where it comes from, what was proved.

`flower.onnx` has `flower.onnx.json`. A file whose bytes are not the manifest's is never opened.
"""

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from flowerseg import __version__
from flowerseg.contract import require_deployable
from flowerseg.errors import ArtifactError
from flowerseg.files import as_path, replacing, sha256_of, sha256_of_regular, write_text
from flowerseg.folder import FolderRules
from flowerseg.jsonform import from_json, read_json
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import LARGEST_BATCH, Proof
from flowerseg.ranges import require_between, require_open_share
from flowerseg.seen import TrainingPhotos
from flowerseg.smallfiles import reason_of
from flowerseg.trust import distrust, with_their_folders

SCHEMA = 1


class Kind(StrEnum):
    """What a model file is."""

    CHECKPOINT = "checkpoint"
    ONNX = "onnx"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    PT2 = "pt2"


COMPILED = (Kind.TENSORRT, Kind.TENSORRT_RTX, Kind.PT2)
"""Kinds whose files hold machine code, which runs when the file is opened."""

RUNTIMES: dict[Kind, tuple[str, ...]] = {
    Kind.CHECKPOINT: ("pytorch", "pytorch-fp16", "torch-compile", "torch-compile-fp16"),
    Kind.ONNX: ("onnxruntime", "openvino", "openvino-bf16"),
    Kind.TENSORRT: ("tensorrt",),
    Kind.TENSORRT_RTX: ("tensorrt-rtx",),
    Kind.PT2: ("aotinductor",),
}
"""The runtimes that open each kind of file; the first is the one that it is proved in first."""


class Precision(StrEnum):
    """The type that the network computes in; input and output are always uint8."""

    FP32 = "fp32"
    TF32 = "tf32"  # FP32 in memory, ten bits of mantissa in TensorRT's matrix units
    BF16 = "bf16"  # FP32 in memory, seven bits of mantissa where matrices are multiplied
    FP16 = "fp16"
    INT8 = "int8"


COMPUTED_IN = {
    "openvino-bf16": Precision.BF16,
    "pytorch-fp16": Precision.FP16,
    "torch-compile-fp16": Precision.FP16,
}
"""Runtimes that compute in a precision of their own, whatever the file is stored in."""


def computed_in(runtime: str, stored: Precision) -> Precision:
    """The precision that a runtime computes a file in."""
    return COMPUTED_IN.get(runtime, stored)


class Hardware(StrEnum):
    """Which other GPUs a TensorRT engine runs on; the wider, the slower."""

    SAME = "same"  # the one it was built on and its like
    SAME_CAPABILITY = "same-compute-capability"
    AMPERE_PLUS = "ampere+"  # compute capability 8.0 and above


_MOST_PIXELS = 1 << 30
"""Of the smallest batch that a file takes: 3 GiB as uint8. The self-test fills one."""

# Both are printed in errors and compared as numbers, so any other text is refused.
_VERSION = re.compile(r"[\w.+!~-]{1,100}", re.ASCII)
_CAPABILITIES = re.compile(r"(\d{1,3}\.\d{1,3}(, \d{1,3}\.\d{1,3})*)?", re.ASCII)


UNTUNED_BATCH = 8
"""Of files that are tuned for none: enough to fill a GPU's pipeline."""


@dataclass(frozen=True)
class Batch:
    """Batch sizes that a file takes; `opt` is the one it is tuned for."""

    min: int = 1
    opt: int = 8
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= LARGEST_BATCH:
            raise ValueError(f"batch must be 1 <= min <= opt <= max <= {LARGEST_BATCH}, not {self}")

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


def whole_range(profiles: Sequence[Batch]) -> Batch:
    """The batch sizes that the optimisation profiles of an engine take together.

    Its `opt` is that of the last profile, which has the highest throughput.

    Raises:
        ValueError: there is no profile, or one does not begin right after the one before it.
    """
    if not profiles:
        raise ValueError("an engine needs at least one optimisation profile")
    for before, after in pairwise(profiles):
        if after.min != before.max + 1:
            raise ValueError(
                f"profiles must follow one another without a gap or an overlap: {after} begins "
                f"at {after.min}, but {before} ends at {before.max}"
            )
    return Batch(profiles[0].min, profiles[-1].opt, profiles[-1].max)


@dataclass(frozen=True)
class Parent:
    """The file that this one was made from."""

    kind: Kind
    name: str
    sha256: str

    def __post_init__(self) -> None:
        # It is looked up beside the model, and must not lead elsewhere.
        if self.name in ("", ".", "..") or "/" in self.name or "\0" in self.name:
            raise ValueError(f"a parent's name must be that of a file, not {self.name[:99]!r}")


@dataclass(frozen=True)
class Data:
    """The labelled photos that a model was trained on and chosen by."""

    name: str
    fingerprint: str
    train_photos: int
    val_photos: int
    val_iou: float
    rules: FolderRules = field(default_factory=FolderRules)  # how its folder is read
    seen: TrainingPhotos | None = None  # None: a model older than this field

    def __post_init__(self) -> None:
        require_between(0, None, train_photos=self.train_photos, val_photos=self.val_photos)
        require_between(-1, 1, val_iou=self.val_iou)  # -1: of an epoch that was not validated


@dataclass(frozen=True)
class SelfTest:
    """A painted photo and what the reference makes of it; see `flowerseg.selftest`.

    Both are in base64, so that a manifest holds each in one line.
    """

    photo: str  # JPEG
    foreground: str  # grey PNG (H, W) of the reference's probability map


@dataclass(frozen=True)
class BuiltFor:
    """The only GPU family and system that a compiled file runs on."""

    gpu: str
    compute_capability: str  # "9.0", or several, "8.9, 12.0"; empty where it is bound to none
    system: str
    cpu_features: tuple[str, ...] = ()  # "avx512f", …: what the code for the host may use

    def __post_init__(self) -> None:
        if not _CAPABILITIES.fullmatch(self.compute_capability):
            raise ValueError(f"{reprlib.repr(self.compute_capability)} is no compute capability")


@dataclass(frozen=True)
class EngineBuild:
    """How TensorRT was asked to build an engine, beyond its graph and its batch sizes."""

    workspace_mib: int | None = None  # None: all memory that the GPU has
    optimisation_level: int | None = None  # 0 to 5; None: TensorRT's own default, 3
    hardware: Hardware = Hardware.SAME
    version_compatible: bool = False  # runs on this version of TensorRT and newer ones
    refittable: bool = False  # weights can be replaced without another build
    compute_capabilities: tuple[str, ...] = ()  # TensorRT-RTX: "8.9"; empty: all that it knows

    def __post_init__(self) -> None:
        require_between(1, None, workspace_mib=self.workspace_mib)
        require_between(0, 9, optimisation_level=self.optimisation_level)  # the builder clamps it


@dataclass(frozen=True)
class TrtexecCommands:
    """Command lines of NVIDIA's `trtexec` that build the same engine, and time it."""

    build: str
    time: tuple[str, ...]  # one for each optimisation profile, at its `opt`


QuantisedFor = Literal["", "cpu", "tensorrt"]
"""Whose INT8 kernels a graph is written for; empty: it is not INT8, or older than this field."""


@dataclass(frozen=True)
class Manifest:
    """Everything that must be known before a model file is opened."""

    kind: Kind
    architecture: str
    precision: Precision
    preprocess: Preprocess
    threshold: float = 0.5
    quantisation: str = ""  # flavour and calibration of an INT8 graph
    quantised_for: QuantisedFor = ""  # the runtimes whose INT8 kernels a graph is written for
    keep_fp32: tuple[str, ...] = ()  # globs of modules that stay in FP32 in FP16 and INT8 graphs
    batch: Batch | None = None  # None: any
    engine: EngineBuild | None = None
    sha256: str = ""
    parents: tuple[Parent, ...] = ()
    data: Data | None = None
    proof: Proof | None = None
    further_proofs: tuple[Proof, ...] = ()  # of the same bytes in other runtimes
    built_for: BuiltFor | None = None
    versions: dict[str, str] = field(default_factory=dict)
    rebuild: str = ""
    created: str = ""
    schema: int = SCHEMA
    selftest: SelfTest | None = None  # None: a model older than it, or one that no photo moves
    float_type: Precision = Precision.FP32  # INT8 files: what is not quantised computes in it
    profiles: tuple[Batch, ...] = ()  # of an engine, in its order; empty: one, which is `batch`
    trtexec: dict[str, TrtexecCommands] = field(default_factory=dict)  # by TensorRT's major version

    def __post_init__(self) -> None:
        require_open_share(threshold=self.threshold)
        if self.profiles:
            whole_range(self.profiles)
        self._require_batch_that_fits_memory()
        for package, version in self.versions.items():
            if not _VERSION.fullmatch(version):
                raise ValueError(
                    f"{reprlib.repr(version)} is no version of {reprlib.repr(package)}"
                )

    def _require_batch_that_fits_memory(self) -> None:
        smallest = max(
            (batch.min for batch in (self.batch, *self.profiles[:1]) if batch), default=1
        )
        if smallest * math.prod(self.preprocess.size_hw) > _MOST_PIXELS:
            height, width = self.preprocess.size_hw
            raise ValueError(
                f"the smallest batch, {smallest} frames of {height} x {width} pixels, is larger "
                "than memory"
            )

    @property
    def ranges(self) -> tuple[Batch, ...]:
        """The batch sizes of each optimisation profile; empty where a file takes any batch."""
        return self.profiles or ((self.batch,) if self.batch else ())

    @property
    def rules(self) -> FolderRules:
        """How a folder of labelled photos is read for this model."""
        return self.data.rules if self.data else FolderRules()

    @property
    def proofs(self) -> tuple[Proof, ...]:
        """All that were run, or could not be."""
        return (*([self.proof] if self.proof else []), *self.further_proofs)

    def proof_in(self, runtime: str, device: str = "") -> Proof | None:
        """What the proof in a runtime found: another one may compute something else.

        Args:
            runtime: by name.
            device: `cpu`, `cuda` or `cuda:N`. A proof on another kind of device is taken only where
                there is none on this one; empty: any.
        """
        first, kind = RUNTIMES[self.kind][0], device.partition(":")[0]
        found = [proof for proof in self.proofs if (proof.runtime or first) == runtime]
        return next((proof for proof in found if proof.device == kind), found[0] if found else None)

    def is_proved_in(self, runtime: str, device: str) -> bool:
        """Whether the file may be used in a runtime on a device; see `why_not_proved`."""
        return not self.why_not_proved(runtime, device)

    def why_not_proved(self, runtime: str, device: str = "") -> str:
        """Why the file may not be used in a runtime on a device, as text; empty where it may.

        A checkpoint in PyTorch is the reference, and needs no proof.

        Args:
            runtime: by name.
            device: `cpu`, `cuda` or `cuda:N`; empty: any on which it was proved.
        """
        if self.is_reference_in(runtime):
            return ""
        proof = self.proof_in(runtime, device)
        if proof is None:
            return "its proof was never run"
        return proof.why_not_on(device or proof.device or "")

    def largest_proved(self, runtime: str = "", device: str = "") -> int | None:
        """The largest batch that was proved; None where that is not limited, or not recorded.

        Args:
            runtime: by name; empty: any.
            device: `cpu`, `cuda` or `cuda:N`; empty: any.
        """
        first = RUNTIMES[self.kind][0]
        if self.is_reference_in(runtime or first):
            return None
        kind = device.partition(":")[0]
        sizes = [
            size
            for proof in self.proofs
            if runtime in ("", proof.runtime or first) and kind in ("", proof.device)
            for size in proof.batch_sizes
        ]
        return max(sizes, default=None)

    def is_reference_in(self, runtime: str) -> bool:
        """Whether this is a checkpoint in PyTorch, which others are proved against."""
        return self.kind is Kind.CHECKPOINT and runtime == RUNTIMES[self.kind][0]

    def to_json(self) -> str:
        """The manifest as readable JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class Artifact:
    """A model file whose bytes were checked against its manifest."""

    path: Path
    manifest: Manifest


def manifest_path(path: Path) -> Path:
    """`flower.onnx` -> `flower.onnx.json`."""
    return path.with_name(path.name + ".json")


def open_artifact(path: str | Path, *, trust: bool = False) -> Artifact:
    """Read the manifest of a model file and check the file's bytes against it.

    Args:
        path: of the file.
        trust: take a compiled file although another user owns it or can write to it.

    Raises:
        ArtifactError: file or manifest is missing or unreadable, the SHA-256 differs, another user
            can change a compiled file, or an ONNX file breaks the contract; see
            `flowerseg.contract`.
    """
    path = as_path(path, "path")
    _require_file(path)
    manifest = read_manifest(manifest_path(path))
    if manifest.kind in COMPILED and not trust:
        _require_trusted(path)
    actual = _digest_of(path)
    if actual != manifest.sha256:
        # A manifest that does not belong to the file may be anybody's: none of its text is advice.
        raise ArtifactError(
            f"{path}: the file is not the one its manifest describes (SHA-256 {actual[:12]}…, "
            f"manifest {manifest.sha256[:12]}…). It was changed, cut off or replaced. "
            "Copy both files again, or make the model again with flowerseg-export or "
            "flowerseg-train."
        )
    if manifest.kind is Kind.ONNX:
        try:
            require_deployable(path, manifest)
        except ValueError as error:
            raise ArtifactError(f"{path}: {error}.") from error
    return Artifact(path, manifest)


def _require_file(path: Path) -> None:
    try:
        if path.is_file():
            return
    except OSError as error:
        raise ArtifactError(
            f"{path}: the model file cannot be read: {reason_of(error)}. Check the path."
        ) from error
    raise ArtifactError(f"{path}: no such model file. Check the path, or export one first.")


def _require_trusted(path: Path) -> None:
    try:
        reason = distrust(with_their_folders(path, manifest_path(path)))
    except OSError as error:
        raise ArtifactError(
            f"{path}: the model file cannot be read: {reason_of(error)}. Copy it again."
        ) from error
    if reason:
        raise ArtifactError(
            f"{path}: a compiled model runs as a program, and {reason}. If you trust all who can "
            "change it, say --trust (in Python: trust=True); else export it again yourself."
        )


def _digest_of(path: Path) -> str:
    try:
        return sha256_of_regular(path, follows_link=True)
    except OSError as error:
        raise ArtifactError(
            f"{path}: the model file cannot be read: {reason_of(error)}. Copy it again."
        ) from error


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ArtifactError: it is missing, not JSON, of another schema or has wrong fields.
    """
    try:
        fields = read_json(path)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: the manifest is missing; without it nobody knows what the model expects. "
            "Copy it along with the model file, or export the model again."
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable manifest: {reason_of(error)}. Copy it again."
        ) from error
    found = fields.get("schema") if isinstance(fields, dict) else None
    if type(found) is not int or found != SCHEMA:
        raise ArtifactError(
            f"{path}: manifest schema {reprlib.repr(found)}; this flowerseg {__version__} reads "
            f"{SCHEMA}. Export the model again with this version."
        )
    _renew_proofs(fields)
    try:
        return from_json(Manifest, fields)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: wrong field in the manifest: {error}.") from error


def _renew_proofs(fields: dict[str, Any]) -> None:
    """Bring proofs of flowerseg before 2026-11-28, which name no device, into today's form.

    A file with such a proof is not proved; a checkpoint in PyTorch needs no proof.
    """
    others = fields.get("further_proofs")
    for proof in [fields.get("proof"), *(others if isinstance(others, list) else [])]:
        if isinstance(proof, dict) and "agreement_by_batch" in proof and "device" not in proof:
            del proof["agreement_by_batch"]
            proof.pop("place_share", None)
            proof["faults"] = []  # which were sentences; `how` says that it failed


def rebuild_advice(path: Path) -> str:
    """What to do with a file that cannot be used here.

    The manifest's own `rebuild` is not printed: its text comes from the author of the file, and
    would look like a command that flowerseg recommends.
    """
    return (
        f"Export the checkpoint again with flowerseg-export; `rebuild` in {manifest_path(path)} "
        "says how this file was made."
    )


def publish(path: Path, manifest: Manifest, write: Callable[[Path], None]) -> Artifact:
    """Write a model file and its manifest so that neither is ever seen without truth beside it.

    The old manifest goes first and the new one comes last: killed in between, what is left is a
    model without manifest, which nothing opens.
    """
    with replacing(path) as temporary:
        write(temporary)
        digest = sha256_of(temporary)
        manifest_path(path).unlink(missing_ok=True)
    complete = dataclasses.replace(
        manifest,
        sha256=digest,
        versions=versions_here() | manifest.versions,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return rewrite_manifest(Artifact(path, complete))


def rewrite_manifest(artifact: Artifact, **changes: Any) -> Artifact:
    """Replace fields of a manifest on disk, such as the proof once it was run."""
    manifest = dataclasses.replace(artifact.manifest, **changes)
    write_text(manifest_path(artifact.path), manifest.to_json())
    return Artifact(artifact.path, manifest)


def record_proof(artifact: Artifact, proof: Proof) -> Artifact:
    """Write a proof into the manifest on disk.

    It takes the place of the last one in the same runtime on the same kind of device.
    """
    kept = [each for each in artifact.manifest.proofs if not _is_replaced(each, proof)]
    first = artifact.manifest.proof
    is_first = first is None or first not in kept
    ordered = (proof, *kept) if is_first else (*kept, proof)
    return rewrite_manifest(artifact, proof=ordered[0], further_proofs=ordered[1:])


def _is_replaced(before: Proof, proof: Proof) -> bool:
    """Whether another proof takes the place of this one."""
    if not before.runtime:  # not run, or of an older flowerseg
        return True
    return before.runtime == proof.runtime and before.device in ("", proof.device)


def require_proof(
    artifact: Artifact, *, allow_unproven: bool, runtime: str = "", device: str = ""
) -> None:
    """Refuse a file that was not proved in a runtime on a device.

    Args:
        artifact: the file.
        allow_unproven: refuse nothing.
        runtime: by name; empty is the first that opens the file's kind.
        device: `cpu`, `cuda` or `cuda:N`; empty: any on which it was proved.

    Raises:
        ArtifactError: no proof, or a failed one, and `allow_unproven` is False.
    """
    chosen = runtime or RUNTIMES[artifact.manifest.kind][0]
    if reason := "" if allow_unproven else artifact.manifest.why_not_proved(chosen, device):
        raise not_proved(artifact, reason, chosen, device)


def not_proved(artifact: Artifact, reason: str, runtime: str, device: str) -> ArtifactError:
    """The error of a file that was not proved in a runtime on a device; empty: any."""
    is_first = runtime == RUNTIMES[artifact.manifest.kind][0]
    where, option = ("", "") if is_first else (f" in {runtime}", f" --runtime {runtime}")
    option += f" --device {device}" if device else ""
    return ArtifactError(
        f"{artifact.path}: not proved{where} ({reason}). Prove it with flowerseg-verify "
        f"{artifact.path}{option} --reference CHECKPOINT --data DIR (or --photos DIR, of photos "
        "without labels), or say --unproven."
    )


def as_parent(artifact: Artifact) -> Parent:
    """The link that a child's manifest keeps."""
    return Parent(artifact.manifest.kind, artifact.path.name, artifact.manifest.sha256)


def versions_here() -> dict[str, str]:
    """Versions of the packages that shape a model file and its results."""
    names = ["torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime"]
    names += ["openvino", "tensorrt", "tensorrt-rtx", "opencv-python-headless", "numpy"]
    found = {"flowerseg": __version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
