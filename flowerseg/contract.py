"""The contract of a deployable ONNX graph: its border, and that all of it is in the one file."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flowerseg.errors import some_of

if TYPE_CHECKING:
    import onnx

    from flowerseg.artifact import Batch, Manifest


# TensorProto's types of 2, 4 and 6 bits, by number: older versions of onnx do not name them all.
_PACKED_TYPES = (21, 22, 23, 25, 26, 27, 28)


def require_deployable(path: Path, manifest: "Manifest") -> None:
    """Refuse an ONNX file that does not keep the contract. No other file is read.

    Raises:
        ValueError: it is no ONNX, its border is another one, or some of its tensors lie in other
            files, whose bytes the manifest's SHA-256 does not cover.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, a package that flowerseg does not import
        raise ValueError("it is not an ONNX model, or is damaged. Copy it again") from error
    try:
        outside = list(external_tensors(model))
        fault = border_fault(model, manifest.preprocess.size_hw, manifest.batch)
    except TypeError as error:  # protobuf has bytes in place of a text that is not UTF-8
        raise ValueError("one of its names is not UTF-8: it is damaged. Copy it again") from error
    if outside:
        raise ValueError(
            f"{len(outside)} of its tensors lie in other files ({some_of(outside)}), which its "
            "SHA-256 does not cover. Save all in one file: onnx.save(onnx.load(PATH), OUT, "
            "save_as_external_data=False), and export or verify that one"
        )
    if fault:
        raise ValueError(f"{fault}. Export the model again")
    _require_readable(model)


def _require_readable(model: "onnx.ModelProto") -> None:
    """Refuse what OpenVINO 2026.4 computes all the same, and ONNX Runtime may read otherwise.

    Raises:
        ValueError: the file is newer than the installed onnx, two weights have one name, or one
            has another number of values than its shape.
    """
    import onnx

    versions = {entry.domain: entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if model.ir_version > onnx.IR_VERSION or versions.get("", 0) > newest:
        raise ValueError(
            f"it is written for ONNX of opset {versions.get('', 0)} and file format "
            f"{model.ir_version}, and onnx {onnx.__version__} knows {newest} and "
            f"{onnx.IR_VERSION}. Install a newer onnx, or export the model again"
        )
    names = [tensor.name for tensor in model.graph.initializer]
    if len(set(names)) < len(names):
        raise ValueError("two of its weights have one name. Export the model again")
    for tensor in _all_tensors(model):
        if _has_wrong_length(tensor):
            raise ValueError(
                f"{tensor.name or 'a constant'} has another number of values than its shape: the "
                "file is damaged. Copy it again"
            )


def _has_wrong_length(tensor: "onnx.TensorProto") -> bool:
    """Whether a tensor's raw bytes are more or fewer than its shape.

    False where the values are not raw bytes, or several share a byte.
    """
    import onnx

    if not tensor.HasField("raw_data") or tensor.data_type in _PACKED_TYPES:
        return False
    try:
        item_bytes = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:
        return True  # there is no such type
    wanted = math.prod(int(side) for side in tensor.dims) * item_bytes
    return len(tensor.raw_data) != wanted


def border_fault(
    model: "onnx.ModelProto", size_hw: tuple[int, int], batch: "Batch | None" = None
) -> str:
    """How a graph's inputs and outputs differ from the contract, in words; empty if they do not.

    Args:
        model: the graph.
        size_hw: of the frames.
        batch: sizes that the file takes. The graph's is dynamic, or the only one of them.
    """
    import onnx

    border = [*model.graph.input, *model.graph.output]
    fixed = batch.max if batch and batch.min == batch.max else None
    first = {_first_dimension(value) for value in border}
    allowed = {"batch", str(fixed)} if fixed else {"batch"}
    dims = first.pop() if len(first) == 1 and first <= allowed else "batch"
    height, width = size_hw
    expected = [
        f"images uint8 ({dims}, {height}, {width}, 3)",
        f"foreground uint8 ({dims}, {height}, {width})",
    ]
    kinds = onnx.TensorProto.DataType
    found = [_described(value, kinds.Name(value.type.tensor_type.elem_type)) for value in border]
    if found == expected:
        return ""
    return f"the graph has {found} where the contract has {expected}"


def external_tensors(model: "onnx.ModelProto") -> Iterator[str]:
    """Names of the tensors whose data lie in other files, of subgraphs and functions too."""
    import onnx

    for tensor in _all_tensors(model):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor.name or "one without a name"


def _all_tensors(model: "onnx.ModelProto") -> "Iterator[onnx.TensorProto]":
    yield from _tensors_of_graph(model.graph)
    yield from _tensors_of_nodes(node for function in model.functions for node in function.node)


def _tensors_of_graph(graph: "onnx.GraphProto") -> "Iterator[onnx.TensorProto]":
    yield from graph.initializer
    yield from _parts(graph.sparse_initializer)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: "Iterable[onnx.NodeProto]") -> "Iterator[onnx.TensorProto]":
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        yield from _parts((attribute.sparse_tensor, *attribute.sparse_tensors))
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of_graph(graph)


def _parts(sparse: "Iterable[onnx.SparseTensorProto]") -> "Iterator[onnx.TensorProto]":
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _first_dimension(value: "onnx.ValueInfoProto") -> str:
    dims = value.type.tensor_type.shape.dim
    return (dims[0].dim_param or str(dims[0].dim_value)) if dims else ""


def _described(value: "onnx.ValueInfoProto", kind: str) -> str:
    dims = (dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
    return f"{value.name} {kind.lower()} ({', '.join(dims)})"
