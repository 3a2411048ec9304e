"""What a correct export may differ by, and why."""

from flowerseg.artifact import Limits, Precision

# Rounding of a correct export stays inside, faults outside. On a trained MobileNetV3 and photos at
# their own size FP32 agreed at 1.0000 and FP16 at 0.9998 with PyTorch, INT8 at 0.992; a threshold
# off by 0.05 gave 0.989, a resize without antialiasing 0.990, BGR for RGB 0.599. Against truth FP16
# costs nothing in published tables (Cityscapes mIoU of DeepLabV3-R50 in mmdeploy's benchmark: 79.09
# in PyTorch, 79.12 in TensorRT FP16, 78.96 in INT8): a loss that shows is a fault.
#
# The share of one photo's pixels that may change sides is for what a sum over photos hides: one
# result of another photo, one spoilt place in a batch.
LIMITS: dict[Precision, Limits] = {
    Precision.FP32: Limits(agreement_iou=0.9995, iou_drop=0.001, flipped_share=0.005),
    Precision.TF32: Limits(agreement_iou=0.998, iou_drop=0.002, flipped_share=0.01),  # FP16's bits
    Precision.FP16: Limits(agreement_iou=0.998, iou_drop=0.002, flipped_share=0.01),
    Precision.INT8: Limits(agreement_iou=0.98, iou_drop=0.01, flipped_share=0.05),
}
