"""Faults planted in a real file's graph, one at a time: the proof finds each.

Each is one that exporters have shipped. What was measured is held against the limits of FP32, FP16
and INT8: whatever is found in an FP32 file would be found in one that rounds more.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from flowerseg.artifact import Artifact, publish
from flowerseg.data import PhotoSet
from flowerseg.model import IMAGENET_MEAN, IMAGENET_STD
from flowerseg.proof import prove
from flowerseg.proof.prove import Evidence

Spoil = Callable[[onnx.ModelProto], None]
FoundAt = Callable[[Evidence], set[str]]

ALL = {"fp32", "fp16", "int8"}
# What moves masks less than a precision does where it is right cannot be found at its limits:
# whoever wants to find it proves the FP32 file of the same export first.
FOUND_AT = {
    "scaled_by_255": {"fp32", "fp16"},
    "rounded_for_floored": {"fp32", "fp16"},
    "hardsigmoid_with_default_slope": {"fp32", "fp16"},
    "std_of_bgr": {"fp32", "fp16"},  # 0.229 and 0.225 for one another: 2 % of the contrast
}


def swapped_red_and_blue(model: onnx.ModelProto) -> None:
    _reorder_images(model, [2, 1, 0], axis=3)


def green_taken_for_blue(model: onnx.ModelProto) -> None:
    _reorder_images(model, [0, 1, 1], axis=3)


def mirrored_photo(model: onnx.ModelProto) -> None:
    _reorder_images(model, [*range(63, -1, -1)], axis=2)


def height_taken_for_width(model: onnx.ModelProto) -> None:
    _set(_node(model, "Transpose"), perm=[0, 3, 2, 1])


def channels_taken_for_columns(model: onnx.ModelProto) -> None:
    """NHWC memory read as if it were NCHW."""
    node = _node(model, "Transpose")
    node.op_type = "Reshape"
    node.ClearField("attribute")
    node.input.append(_constant(model, "as_if_nchw", np.array([0, 3, 64, 64])))


def no_normalisation(model: onnx.ModelProto) -> None:
    _normalise(model, mean=(0, 0, 0), std=(1, 1, 1))


def forgotten_255(model: onnx.ModelProto) -> None:
    _normalise(model, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def divided_by_255_twice(model: onnx.ModelProto) -> None:
    _normalise(model, mean=_times_255(IMAGENET_MEAN), std=_times_255(_times_255(IMAGENET_STD)))


def mean_and_std_swapped(model: onnx.ModelProto) -> None:
    _normalise(model, mean=_times_255(IMAGENET_STD), std=_times_255(IMAGENET_MEAN))


def mean_forgotten(model: onnx.ModelProto) -> None:
    _normalise(model, mean=(0, 0, 0), std=_times_255(IMAGENET_STD))


def mean_of_bgr(model: onnx.ModelProto) -> None:
    _normalise(model, mean=_times_255(IMAGENET_MEAN[::-1]), std=_times_255(IMAGENET_STD))


def std_of_bgr(model: onnx.ModelProto) -> None:
    _normalise(model, mean=_times_255(IMAGENET_MEAN), std=_times_255(IMAGENET_STD[::-1]))


def samples_from_minus_one_to_one(model: onnx.ModelProto) -> None:
    _normalise(model, mean=(127.5,) * 3, std=(127.5,) * 3)


def aligned_corners(model: onnx.ModelProto) -> None:
    _resize(model, coordinate_transformation_mode="align_corners")


def asymmetric_coordinates(model: onnx.ModelProto) -> None:
    _resize(model, coordinate_transformation_mode="asymmetric")


def nearest_for_bilinear(model: onnx.ModelProto) -> None:
    _resize(model, mode="nearest")


def cubic_for_bilinear(model: onnx.ModelProto) -> None:
    _resize(model, mode="cubic")


def mask_shifted_right(model: onnx.ModelProto) -> None:
    _reorder_mask(model, [0, *range(63)], axis=2)


def mask_shifted_down(model: onnx.ModelProto) -> None:
    _reorder_mask(model, [0, *range(63)], axis=1)


def transposed_mask(model: onnx.ModelProto) -> None:
    _append(model, "Transpose", perm=[0, 2, 1])


def swapped_classes(model: onnx.ModelProto) -> None:
    _append(model, "Sub", before=[_constant(model, "full", np.array(255, np.uint8))])


def thresholded_before_the_resize(model: onnx.ModelProto) -> None:
    _append(model, "GreaterOrEqual", after=[_constant(model, "half", np.array(128, np.uint8))])
    values = [("full", np.array(255, np.uint8)), ("none", np.array(0, np.uint8))]
    _append(model, "Where", after=[_constant(model, *value) for value in values])


def missing_sigmoid(model: onnx.ModelProto) -> None:
    """Logits cut off at 0 and 1 as if they were probabilities."""
    node = _node(model, "Sigmoid")
    node.op_type = "Clip"
    node.input.append(_constant(model, "zero", np.array(0, np.float32)))
    node.input.append(_constant(model, "one", np.array(1, np.float32)))


def sigmoid_twice(model: onnx.ModelProto) -> None:
    _insert_before(model, _node(model, "Mul", last=True), "Sigmoid")


def softmax_over_columns(model: onnx.ModelProto) -> None:
    node = _node(model, "Sigmoid")
    node.op_type = "Softmax"
    _set(node, axis=2)


def probability_from_0_to_1(model: onnx.ModelProto) -> None:
    """The factor of 256 lost: everything is floored to 0."""
    _edit(model, "Mul:1", lambda _: np.array(1, np.float32))


def scaled_by_200(model: onnx.ModelProto) -> None:
    _edit(model, "Mul:1", lambda _: np.array(200, np.float32))


def scaled_by_255(model: onnx.ModelProto) -> None:
    """So that 128 and more is no longer exactly a half and more."""
    _edit(model, "Mul:1", lambda _: np.array(255, np.float32))


def rounded_for_floored(model: onnx.ModelProto) -> None:
    _node(model, "Floor").op_type = "Round"


def pooled_branch_missing(model: onnx.ModelProto) -> None:
    for part in ("weight", "bias"):
        _edit(model, f"classifier.0.convs.4.1.{part}", np.zeros_like)


def undilated(model: onnx.ModelProto) -> None:
    """The last blocks' 5 x 5 convolutions without their dilation of 2."""
    for node in model.graph.node:
        if _attribute(node, "dilations") == [2, 2]:
            _set(node, dilations=[1, 1], pads=[2, 2, 2, 2])


def padded_at_one_side(model: onnx.ModelProto) -> None:
    """TensorFlow's SAME for a stride of two, where PyTorch pads both sides."""
    _set(_node(model, "Conv"), pads=[0, 0, 2, 2])


def hardsigmoid_with_default_slope(model: onnx.ModelProto) -> None:
    """ONNX's default is 0.2, PyTorch's slope a sixth."""
    for node in model.graph.node:
        if node.op_type == "HardSigmoid":
            _set(node, alpha=0.2)


def bias_of_head_missing(model: onnx.ModelProto) -> None:
    _edit(model, "classifier.4.bias", np.zeros_like)


def one_layer_negated(model: onnx.ModelProto) -> None:
    _edit(model, "classifier.0.convs.0.0.weight", np.negative)


GRAPH_FAULTS: list[Spoil] = [
    swapped_red_and_blue,
    green_taken_for_blue,
    mirrored_photo,
    height_taken_for_width,
    channels_taken_for_columns,
    no_normalisation,
    forgotten_255,
    divided_by_255_twice,
    mean_and_std_swapped,
    mean_forgotten,
    mean_of_bgr,
    std_of_bgr,
    samples_from_minus_one_to_one,
    aligned_corners,
    asymmetric_coordinates,
    nearest_for_bilinear,
    cubic_for_bilinear,
    mask_shifted_right,
    mask_shifted_down,
    transposed_mask,
    swapped_classes,
    thresholded_before_the_resize,
    missing_sigmoid,
    sigmoid_twice,
    softmax_over_columns,
    probability_from_0_to_1,
    scaled_by_200,
    scaled_by_255,
    rounded_for_floored,
    pooled_branch_missing,
    undilated,
    padded_at_one_side,
    hardsigmoid_with_default_slope,
    bias_of_head_missing,
    one_layer_negated,
]


@pytest.mark.parametrize("spoil", GRAPH_FAULTS, ids=lambda spoil: spoil.__name__)
def test_fault_in_the_graph_is_found(
    fp32_onnx: Artifact,
    reference: Artifact,
    val_photos: PhotoSet,
    tmp_path: Path,
    found_at: FoundAt,
    spoil: Spoil,
) -> None:
    artifact = _spoilt(fp32_onnx, tmp_path / "spoilt.onnx", spoil)
    evidence = prove(artifact, reference, val_photos, device="cpu")
    assert evidence.proof.status == "failed"
    assert found_at(evidence) == FOUND_AT.get(spoil.__name__, ALL)


def _spoilt(artifact: Artifact, path: Path, spoil: Spoil) -> Artifact:
    """A file as an exporter with this fault would have published it."""
    model = onnx.load(artifact.path)
    spoil(model)
    onnx.checker.check_model(model)
    return publish(path, artifact.manifest, lambda file: onnx.save(model, str(file)))


def _times_255(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(255 * value for value in values)


def _normalise(model: onnx.ModelProto, mean: Sequence[float], std: Sequence[float]) -> None:
    for name, values in (("mean", mean), ("std", std)):
        _edit(model, name, lambda old, new=values: np.array(new, old.dtype).reshape(old.shape))


def _resize(model: onnx.ModelProto, **how: Any) -> None:
    _set(_node(model, "Resize"), **how)


def _reorder_images(model: onnx.ModelProto, order: list[int], axis: int) -> None:
    names = ["images", _constant(model, "order", np.array(order))]
    for node in model.graph.node:
        for i, source in enumerate(node.input):
            if source == "images":
                node.input[i] = "reordered"
    model.graph.node.insert(0, helper.make_node("Gather", names, ["reordered"], axis=axis))


def _reorder_mask(model: onnx.ModelProto, order: list[int], axis: int) -> None:
    _append(model, "Gather", after=[_constant(model, "order", np.array(order))], axis=axis)


def _append(
    model: onnx.ModelProto,
    op: str,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    **how: Any,
) -> None:
    """Put a node behind the last one; the graph's result is its input, between the others."""
    last, name = model.graph.node[-1], f"before {op}"
    last.output[0] = name
    model.graph.node.append(
        helper.make_node(op, [*before, name, *after], ["foreground"], f"last {op}", **how)
    )


def _insert_before(
    model: onnx.ModelProto, node: onnx.NodeProto, op: str, after: Sequence[str] = ()
) -> None:
    """Put a node between another one and its first input."""
    made = helper.make_node(op, [node.input[0], *after], [f"inserted {op}"], f"inserted {op}")
    position = [n.name for n in model.graph.node].index(node.name)
    node.input[0] = made.output[0]
    model.graph.node.insert(position, made)


def _node(model: onnx.ModelProto, op: str, *, last: bool = False) -> onnx.NodeProto:
    found = [node for node in model.graph.node if node.op_type == op]
    return found[-1 if last else 0]


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}.get(name)


def _set(node: onnx.NodeProto, **attributes: Any) -> None:
    kept = [a for a in node.attribute if a.name not in attributes]
    node.ClearField("attribute")
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(name, v) for name, v in attributes.items())


def _constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (tensor,) = [t for t in model.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
