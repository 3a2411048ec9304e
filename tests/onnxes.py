"""Small ONNX graphs that keep the contract, for tests that then break it."""

import onnx
from onnx import TensorProto, helper


def small_onnx(size_hw: tuple[int, int], batch: str | int = "batch") -> onnx.ModelProto:
    """A graph (N, H, W, 3) -> (N, H, W): the red channel, where a weight that is zero is added."""
    height, width = size_hw
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["images", "place"], ["red"], axis=3),
            helper.make_node("Add", ["red", "zero"], ["foreground"]),
        ],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, height, width, 3])],
        [helper.make_tensor_value_info("foreground", TensorProto.UINT8, [batch, height, width])],
        [
            helper.make_tensor("place", TensorProto.INT64, [], [0]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
        ],
    )
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)
