"""From a checkpoint to a deployable model: ONNX, TensorRT, TensorRT-RTX, AOTInductor."""
