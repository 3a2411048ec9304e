"""What a correct export may differ by, and why."""

from dataclasses import replace

from flowerseg.artifact import Precision
from flowerseg.proofrecord import Limits

LEAST_PHOTOS = 8
"""Different ones, in a proof: with fewer, photos that change places in a batch may look right."""

# Rounding of a correct export stays inside, faults outside. MobileNetV3 of ten seeds, trained at
# 96 x 96, a ResNet-101 and a ResNet-50 trained at 64 x 64, proved on photos of 256 x 256 in ONNX
# Runtime and OpenVINO (bench/results/proof-2026-11-23), gave at worst
#
#           agreement   of one photo flipped   probabilities   undecided ones   IoU lost
#   FP32    1.0000      0.002 %                0.004           0.00000          0.0000
#   FP16    0.9996      0.14 %                 0.012           0.0009           0.0001
#   INT8    0.9874      3.1 %                  0.72            0.034            0.0018
#
# BF16 (OpenVINO, FP32 files) of the shipped MobileNetV3 and of a ResNet-101 trained at 224 x 224,
# on photos of Oxford 17, gave at worst 0.9992, 0.24 %, 0.086, 0.0052 and 0.0001. It moves what is
# undecided as far as some faults of a file do; so it is proved only for a file that was proved in
# its own precision, where those faults show.
#
# INT8 of a ResNet-101 that was trained for 8 epochs, whose IoU is 0.71, agrees at 0.968 and loses
# 0.008 of IoU: it is refused.
#
# A threshold off by 0.05 gives 0.954 to 0.989, a resize without antialiasing 0.990, a mask shifted
# by one pixel of the frame 0.987 to 0.993, BGR for RGB 0.599 to 0.890. Against truth FP16
# costs nothing in published tables (Cityscapes mIoU of DeepLabV3-R50 in mmdeploy's benchmark: 79.09
# in PyTorch, 79.12 in TensorRT FP16, 78.96 in INT8): a loss that shows is a fault.
#
# Two limits hold for every single photo, because a sum over photos hides one that is wrong: the
# share of its pixels that change sides by more than rounding explains, and, where its flower is
# too small for that, how far its probabilities may move. INT8 moves single probabilities anywhere,
# so it has no such limit. On 160 photos that no checkpoint has seen, in frames of 224 x 224, the
# shipped MobileNetV3, a ResNet-50 and a ResNet-101 (bench/results/unseen-2026-11-28) gave at worst
#
#           probabilities   flips of one photo, beyond
#   FP32    0.004           0, 0.01
#   FP16    0.016           0, 0.03
#   INT8    0.78            2.7 %, 0.25; beside the emulation 0.43 %
#
# Beside their emulation, modules of correct INT8 files departed by 0.0029 at most there, by 0.0042
# on photos of Oxford 17; modules with a planted fault depart by more than 0.02, as tests assert
# (tests/proof/test_int8_emulation.py). A file lost at most 1.07 times the agreement that its
# emulation lost.
#
# A photo in a batch, or beside other streams, came out bit for bit as it did alone: FP32, FP16 and
# INT8 of the networks in the next table, at every batch size that is run up to 16, in two streams
# of one thread, in ONNX Runtime and OpenVINO. GPUs may take another kernel for another batch size,
# which rounds otherwise: the limits leave room for twice what a precision moves, and for what INT8
# moves where its floats are rounded otherwise. No GPU has measured that yet.
#
# MobileNetV3 of four seeds and a ResNet-50 (bench/results/proof-2026-11-28) gave at worst
#
#           agreement at 0.1 or 0.9   probabilities near 0 or 1   a stress frame's, in the mean
#   FP32    1.0000                    0.00000                     0.0000
#   FP16    0.9998                    0.00001                     0.0020
#   INT8    0.9877                    0.00077                     0.33
#
# Of INT8 the stress frame is noise, in which a mask is arbitrary. A file that gives an empty mask
# of a frame full of flower is wrong by 0.9.
#
# What moves all probabilities by little and no mask shows where the reference is undecided: a
# result scaled by 255 instead of 256 moves those by 0.002 to 0.003 in the mean, one that is rounded
# instead of floored by 0.002, BGR's standard deviations for RGB's by 0.0035 to 0.018.
_FP16 = Limits(
    agreement_iou=0.998,
    iou_drop=0.002,
    rounding=0.03,
    flipped_share=0.001,
    largest_difference=0.1,
    undecided_difference=0.0025,
    batched_share=0.005,
    batched_difference=0.1,
    other_agreement_iou=0.998,
    tail_difference=0.0005,
    stressed_difference=0.03,
)

_MODULE_IN_HALF = 0.05  # what rounding to half adds; see `locate.OWN_ERROR`

LIMITS: dict[Precision, Limits] = {
    Precision.FP32: Limits(
        agreement_iou=0.9995,
        iou_drop=0.001,
        rounding=0.01,
        flipped_share=0.0005,
        largest_difference=0.05,
        undecided_difference=0.0004,
        batched_share=0.001,
        batched_difference=0.02,
        other_agreement_iou=0.9995,
        tail_difference=0.0001,
        stressed_difference=0.002,
    ),
    Precision.TF32: _FP16,  # it has the bits of FP16
    Precision.BF16: replace(
        _FP16,
        rounding=0.1,
        flipped_share=0.005,
        largest_difference=0.25,
        undecided_difference=0.01,
        batched_difference=0.2,
        other_agreement_iou=0.995,
        tail_difference=0.002,
        stressed_difference=0.1,
    ),
    Precision.FP16: _FP16,
    Precision.INT8: Limits(
        agreement_iou=0.98,
        iou_drop=0.01,
        rounding=0.25,
        flipped_share=0.03,
        largest_difference=1.0,
        undecided_difference=1.0,
        batched_share=0.01,
        batched_difference=0.5,
        other_agreement_iou=0.95,
        tail_difference=0.01,
        stressed_difference=0.5,
        module_difference=0.01,
        agreement_drop=0.5,
        emulated_share=0.015,
    ),
}


def limits_of(precision: Precision, float_type: Precision) -> Limits:
    """The limits of a file that computes in a precision, its floats in another one."""
    limits = LIMITS[precision]
    if precision is Precision.INT8 and float_type is Precision.FP16:
        return replace(limits, module_difference=_MODULE_IN_HALF)
    return limits
