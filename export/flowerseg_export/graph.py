"""From a network to an ONNX graph that satisfies the contract: uint8 in, uint8 out, any batch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import torch

from flowerseg.arrays import SizeHW
from flowerseg.contract import border_fault
from flowerseg.errors import ExportError
from flowerseg.model import Deployable, FlowerNet
from flowerseg_export.tidy import tidy

# No node needs more. Opset 19 changed Resize, for which ONNX Runtime has a CUDA kernel only since
# recent versions: older ones would compute that node on the CPU, between two copies of the map.
OPSET = 18
# The first opset whose QuantizeLinear takes values and scales in half. For TensorRT only.
OPSET_OF_HALF_SCALES = 19

# A batch of one would be taken for a constant by the exporter.
_EXAMPLE_BATCH = 2
_LARGEST_BATCH = 4096
_DYNAMIC_SHAPES = {"images": {0: torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)}}


def onnx_from_network(network: FlowerNet, size_hw: SizeHW, opset: int = OPSET) -> onnx.ModelProto:
    """Export a network in the precision that its weights have.

    Args:
        network: made for frames of this size by `model.specialised`.
        size_hw: height and width of the frames.
        opset: of the graph.

    Raises:
        ExportError: PyTorch's exporter or the checker of ONNX refuses.
    """
    try:
        with quietly(), _nothing_overwritten(network):
            exported = torch.onnx.export(
                Deployable(network).eval(),
                (_example(network, size_hw),),
                dynamo=True,
                dynamic_shapes=_DYNAMIC_SHAPES,
                opset_version=opset,
                input_names=["images"],
                output_names=["foreground"],
                verbose=False,
            )
    except Exception as error:  # the exporter raises many types; each means "not exportable"
        raise ExportError(f"torch.onnx.export refused the network: {error}") from error
    if exported is None:
        raise ExportError("torch.onnx.export returned nothing.")
    tidy(exported.model)
    model = ir.to_proto(exported.model)
    check_contract(model, size_hw)
    return model


def exported_program(network: FlowerNet, size_hw: SizeHW) -> torch.export.ExportedProgram:
    """The deployable network as one traced program with a dynamic batch."""
    return torch.export.export(
        Deployable(network).eval(),
        (_example(network, size_hw),),
        dynamic_shapes=_DYNAMIC_SHAPES,
    )


def check_contract(model: onnx.ModelProto, size_hw: SizeHW) -> None:
    """Refuse a graph whose border is not `images` uint8 -> `foreground` uint8.

    Raises:
        ExportError: naming the difference.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    if fault := border_fault(model, size_hw):
        raise ExportError(f"{fault}.")


def set_metadata(model: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Write metadata into the file, replacing what was there."""
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep an exporter's own advice and deprecation talk off the user's terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@contextmanager
def _nothing_overwritten(network: FlowerNet) -> Iterator[None]:
    """Let activations leave their inputs alone. The exporter makes them do so anyway, and is long
    about those of MobileNetV3; the graph is the same to the byte."""
    overwriting: list[Any] = [part for part in network.modules() if getattr(part, "inplace", False)]
    for part in overwriting:
        part.inplace = False
    try:
        yield
    finally:
        for part in overwriting:
            part.inplace = True


def _example(network: FlowerNet, size_hw: SizeHW) -> torch.Tensor:
    shape = (_EXAMPLE_BATCH, *size_hw, 3)
    return torch.zeros(shape, dtype=torch.uint8, device=network.mean.device)
