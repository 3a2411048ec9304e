"""The self-test of a model: does the path of photos still give the map that it gave at first?

A proof compares models on frames that one hand made. What it cannot see is another decoder, resize
or colour order in the place where the model runs. So a manifest holds a painted photo and the map
that the FP32 reference made of it, and opening the model sends the photo down the path of photos.
`flowerseg.proof.painted` makes them.
"""

import base64
from dataclasses import dataclass

import numpy as np

from flowerseg.arrays import Foreground
from flowerseg.artifact import (
    Artifact,
    Manifest,
    Precision,
    SelfTest,
    computed_in,
    manifest_path,
)
from flowerseg.backends.base import Backend, BackendInfo, run
from flowerseg.errors import ArtifactError, ImageError
from flowerseg.images import decode_rgb, encode_png
from flowerseg.preprocess import Preprocess, frame_from_photo

_PHOTO = "the photo of the self-test"
_MAP = "the map of the self-test"


@dataclass(frozen=True)
class Difference:
    """How far two probability maps are apart, in levels of 1/256."""

    mean: float
    largest: int

    def exceeds(self, allowed: "Difference") -> bool:
        """Whether the mean or the largest is beyond what is allowed."""
        return self.mean > allowed.mean or self.largest > allowed.largest


# Measured with the shipped MobileNetV3 on its self-test at 224 x 224, mean and largest: FP32 files
# 0.00 and 1, in FP16 (ONNX Runtime and emulated) 0.01 and 1, in INT8 0.9 and 63 (ONNX Runtime), 1.0
# and 85 (OpenVINO). Least of the faults were torch's antialiased bilinear 2.2 and 184, bilinear
# without antialiasing 4.4 and 202, a decode at half scale 4.8 and 203. A photo whose samples were
# all off by one, as between decoders, came to 35 at most on any painted photo.
TOLERANCES: dict[Precision, Difference] = {
    Precision.FP32: Difference(2.5, 48),
    Precision.TF32: Difference(3.0, 56),
    Precision.BF16: Difference(3.0, 56),
    Precision.FP16: Difference(3.0, 56),
    # Pixels along outlines may change sides, so of INT8 only the mean tells; it does not tell
    # torch's antialiased bilinear.
    Precision.INT8: Difference(4.0, 255),
}


def require_same_map(artifact: Artifact, backend: Backend) -> None:
    """Run the self-test of a model, where its manifest has one.

    Raises:
        ArtifactError: the map differs from the stored one by more than rounding does, or the
            stored photo cannot be decoded.
    """
    manifest = artifact.manifest
    if manifest.selftest is None:
        return
    try:
        stored = _stored_foreground(manifest, backend.info)
        found = difference(foreground_here(manifest.selftest, manifest.preprocess, backend), stored)
    except (ImageError, ValueError) as error:
        raise ArtifactError(
            f"{manifest_path(artifact.path)}: the self-test cannot be read: {error}. Copy the "
            "model file and its manifest again."
        ) from error
    allowed = TOLERANCES[computed_in(backend.info.runtime, manifest.precision)]
    if found.exceeds(allowed):
        info = backend.info
        raise ArtifactError(
            f"{artifact.path}: the self-test differs. The map of its painted photo, by {info}, is "
            f"{found.mean:.1f} levels of 256 from the stored one in the mean (allowed "
            f"{allowed.mean}) and {found.largest} at most (allowed {allowed.largest}). Photos are "
            "decoded, resized or ordered otherwise here than in training, or the runtime computes "
            "something else; masks would be wrong in silence. Install the OpenCV of the manifest "
            f"({manifest.versions.get('opencv-python-headless', 'unknown')}), and ask "
            f"flowerseg-verify {artifact.path} whether the runtime is at fault."
        )


def own_map(artifact: Artifact, backend: Backend) -> str:
    """What a file makes of its self-test's photo, for its proof in this runtime; else empty.

    INT8 moves a map by more than another path of the photos does, and each runtime by itself. A
    proof has said that the masks are right all the same, so from there on the file is held to what
    it gave itself.
    """
    manifest = artifact.manifest
    if manifest.selftest is None or manifest.precision is not Precision.INT8:
        return ""
    own = foreground_here(manifest.selftest, manifest.preprocess, backend)
    return base64.b64encode(encode_png(own)).decode()


def foreground_here(selftest: SelfTest, preprocess: Preprocess, backend: Backend) -> Foreground:
    """The map (H, W) of the stored photo: decoded, resized and segmented like any other photo."""
    rgb = decode_rgb(_from_base64(selftest.photo), _PHOTO)
    frame = frame_from_photo(rgb, preprocess)
    takes = backend.info.batch
    foregrounds = run(backend, np.stack([frame] * (takes.min if takes else 1)))
    first: Foreground = foregrounds[0]
    return first


def _stored_foreground(manifest: Manifest, info: BackendInfo) -> Foreground:
    """The map (H, W) of the stored photo: the file's own where it runs, or the reference's."""
    proof = manifest.proof_in(info.runtime, info.device)
    own = proof.selftest_map if proof is not None else ""
    reference = manifest.selftest.foreground if manifest.selftest is not None else ""
    grey: Foreground = decode_rgb(_from_base64(own or reference), _MAP)[..., 0]
    if grey.shape != manifest.preprocess.size_hw:
        raise ValueError(
            f"{_MAP} is {grey.shape[0]} x {grey.shape[1]}, and the model's frames are "
            f"{manifest.preprocess.size_hw[0]} x {manifest.preprocess.size_hw[1]}"
        )
    return grey


def _from_base64(text: str) -> bytes:
    """The bytes; ValueError for what is not base64."""
    return base64.b64decode(text, validate=True)


def difference(one: Foreground, other: Foreground) -> Difference:
    """How far two maps of one size are apart."""
    apart = np.abs(one.astype(np.int16) - other)
    return Difference(float(apart.mean()), int(apart.max()))
