"""The weights of an engine replaced by those of another checkpoint, without another build.

A refittable engine keeps its kernels and takes new weights in seconds. That is right only where
the two networks differ in nothing else, so the graphs are compared before the engine is touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import torch

from flowerseg.artifact import (
    Artifact,
    Kind,
    Manifest,
    Precision,
    open_artifact,
    rebuild_advice,
)
from flowerseg.backends.trt import Engine, import_tensorrt
from flowerseg.errors import BackendUnavailable, ExportError
from flowerseg_export.config import ENGINES, ExportConfig, config_of_engine
from flowerseg_export.engine import Log, checked, collecting_logger, constructed

_SHOWN = 3  # differences named in a message


@dataclass(frozen=True)
class Refitted:
    """A serialised engine with new weights."""

    content: bytes
    is_refittable: bool  # whether it can be refitted again


def config_to_refit(source: Path, engine: Path, out: Path, **proof: Any) -> ExportConfig:
    """The config that gives the weights of a checkpoint to an engine.

    Precision, modules in FP32, batch sizes and build are those of the engine's manifest.

    Args:
        source: the checkpoint.
        engine: the engine whose kernels are kept.
        out: where the refitted engine goes.
        proof: further fields of `ExportConfig`: data, split, limit, device, force, trust.

    Raises:
        ArtifactError: the engine or its manifest is missing or damaged, or they do not belong
            together.
        ExportError: the file is no engine, not refittable, or of INT8.
    """
    manifest = open_artifact(engine, trust=bool(proof.get("trust"))).manifest
    _require_refittable(engine, manifest)
    return config_of_engine(
        engine,
        manifest,
        source=source,
        out=out,
        precision=manifest.precision,
        keep_fp32=manifest.keep_fp32,
        refit=engine,
        **proof,
    )


def require_same_network(engine: Artifact, source: Artifact) -> None:
    """Refuse a checkpoint whose network the engine does not compute.

    Raises:
        ExportError: no checkpoint, or one of another architecture or frame size.
    """
    old, new = engine.manifest, source.manifest
    if new.kind is not Kind.CHECKPOINT:
        raise ExportError(
            f"{source.path} is a model of kind {new.kind}; --refit takes the weights of a "
            "checkpoint (.pt)."
        )
    differing = [
        f"{what} {there} in the engine, {here} in the checkpoint"
        for what, there, here in (
            ("architecture", old.architecture, new.architecture),
            ("frames", _frames(old), _frames(new)),
        )
        if there != here
    ]
    if differing:
        raise ExportError(
            f"{source.path} does not fit {engine.path}: {'; '.join(differing)}. Build an engine "
            f"of its own: flowerseg-export {source.path} --to {old.kind} …"
        )


def require_same_graph(engine: Artifact, model: onnx.ModelProto) -> None:
    """Refuse a graph that differs from the engine's own by more than its weights.

    The comparison needs the ONNX file that the engine was built from, beside the engine. Where it
    is not, TensorRT still compares the names and sizes of all weights, and the proof the masks.

    Raises:
        ArtifactError: a file of that name is there, and its bytes are not its manifest's.
        ExportError: naming what differs.
    """
    parent = next((p for p in engine.manifest.parents if p.kind is Kind.ONNX), None)
    path = engine.path.with_name(parent.name) if parent else None
    if parent is None or path is None or not path.is_file():
        return
    before = open_artifact(path)
    if before.manifest.sha256 != parent.sha256:
        return  # of another engine: it says nothing about this one
    found = list(differences(onnx.load(before.path), model))
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ExportError(
            f"{engine.path} cannot take these weights: the checkpoint's graph is not the one that "
            f"it was built from ({'; '.join(found[:_SHOWN])}{more}). Build a new engine instead."
        )


def differences(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[str]:
    """What differs between two graphs beside the values of their weights, one line each.

    Nodes, attributes, inputs and outputs must be equal, and so must the names, types and shapes of
    weights. Constants that are called after their reader (`Resize:2`) belong to the structure:
    their values must be equal too.
    """
    yield from _differing("node", _nodes(before), _nodes(after))
    yield from _differing("initializer", _initializers(before), _initializers(after))
    yield from _differing("input or output", _border(before), _border(after))
    if list(_nodes(before)) != list(_nodes(after)):
        yield "the order of the nodes"


def refit(engine: Engine, model: onnx.ModelProto) -> Refitted:
    """Give the weights of a graph to a deserialised engine, and serialise it.

    TensorRT replaces all weights or fails: nothing of the old network stays.

    Args:
        engine: of a refittable file. It holds the new weights afterwards.
        model: with the names, types and shapes of the graph that the engine was built from.

    Raises:
        ExportError: TensorRT refuses, with the reason that it gave.
    """
    trt = import_tensorrt(engine.kind)
    logger = collecting_logger(trt)
    with torch.cuda.device(engine.device):
        if not engine.handle.refittable:
            raise ExportError(
                f"{engine.path}: its manifest says that it is refittable, and {_named(trt)} says "
                "that it is not. Build it again with --refittable."
            )
        _replace_weights(trt, engine.handle, model.SerializeToString(), logger)
        content = _serialized(trt, engine.handle, logger)
        return Refitted(content, _is_refittable(trt, content, logger))


def _require_refittable(engine: Path, manifest: Manifest) -> None:
    if manifest.kind not in ENGINES:
        raise ExportError(
            f"{engine}: a file of kind {manifest.kind}; --refit names a TensorRT engine. Export "
            "the checkpoint instead."
        )
    if not (manifest.engine and manifest.engine.refittable):
        raise ExportError(
            f"{engine}: the engine was not built with --refittable, so that its weights are part "
            f"of its kernels. Build it once with --refittable. {rebuild_advice(engine)}"
        )
    if manifest.precision is Precision.INT8:
        # The scales of Q/DQ nodes come from a calibration of the old weights, and the builder
        # computes with them: it folds them into kernels, biases and neighbouring layers.
        raise ExportError(
            f"{engine}: an INT8 engine. Its scales are calibrated for its own weights, and the "
            "builder folds them into kernels; other weights need a calibration and a build of "
            "their own: flowerseg-export NEW.pt --int8 --data DIR …"
        )


def _frames(manifest: Manifest) -> str:
    height, width = manifest.preprocess.size_hw
    return f"{height} × {width}"


def _nodes(model: onnx.ModelProto) -> dict[str, bytes]:
    """What each node computes; notes about where it comes from are left out."""
    found = {}
    for node in model.graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        kept.ClearField("metadata_props")
        kept.ClearField("doc_string")
        found[node.name] = kept.SerializeToString(deterministic=True)
    return found


def _initializers(model: onnx.ModelProto) -> dict[str, object]:
    """Type and shape of each weight, and the content of each constant of the structure."""
    return {
        tensor.name: (
            tensor.data_type,
            tuple(tensor.dims),
            onnx.numpy_helper.to_array(tensor).tobytes() if ":" in tensor.name else b"",
        )
        for tensor in model.graph.initializer
    }


def _border(model: onnx.ModelProto) -> dict[str, bytes]:
    border = (*model.graph.input, *model.graph.output)
    return {value.name: value.type.SerializeToString(deterministic=True) for value in border}


def _differing(what: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"{what} {name} is missing"
        elif name not in before:
            yield f"{what} {name} is new"
        elif before[name] != after[name]:
            yield f"{what} {name} differs"


def _replace_weights(trt: ModuleType, engine: Any, content: bytes, logger: Log) -> None:
    refitter = constructed(lambda: trt.Refitter(engine, logger), "Refitter", logger)
    parser = constructed(
        lambda: trt.OnnxParserRefitter(refitter, logger), "OnnxParserRefitter", logger
    )
    _set_weights(trt, parser, content, logger)
    _apply_weights(trt, refitter, logger)


def _set_weights(trt: ModuleType, parser: Any, content: bytes, logger: Log) -> None:
    # True only where every refittable weight of the engine was found in the graph.
    if parser.refit_from_bytes(content):
        return
    said = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
    raise ExportError(
        f"{_named(trt)} does not find the engine's weights in the checkpoint's graph: "
        f"{'; '.join(said) or logger.reason()}. Build a new engine instead."
    )


def _apply_weights(trt: ModuleType, refitter: Any, logger: Log) -> None:
    missing = refitter.get_missing_weights()
    if missing:
        raise ExportError(
            f"{_named(trt)} wants weights that the checkpoint's graph does not have: "
            f"{', '.join(sorted(missing)[:_SHOWN])} ({len(missing)} in all). Build a new engine "
            "instead."
        )
    if not refitter.refit_cuda_engine():
        raise ExportError(f"{_named(trt)}'s refit_cuda_engine failed: {logger.reason()}")


def _serialized(trt: ModuleType, engine: Any, logger: Log) -> bytes:
    config = checked(engine.create_serialization_config(), "create_serialization_config", logger)
    _keep_refittable(trt, config)
    content = engine.serialize_with_config(config)
    return bytes(checked(content, "serialize_with_config", logger))


def _keep_refittable(trt: ModuleType, config: Any) -> None:
    # Since TensorRT 10.14. Older versions decide by themselves: `_is_refittable` asks the result.
    if not hasattr(trt.SerializationFlag, "INCLUDE_REFIT"):
        return
    if not config.set_flag(trt.SerializationFlag.INCLUDE_REFIT):
        raise ExportError(f"{_named(trt)} does not take the serialization flag INCLUDE_REFIT.")


def _is_refittable(trt: ModuleType, content: bytes, logger: Log) -> bool:
    """Whether the serialised engine can be refitted again; that it can be read is checked too."""
    runtime = constructed(lambda: trt.Runtime(logger), "Runtime", logger)
    return _read_back(trt, runtime, content, logger)


def _read_back(trt: ModuleType, runtime: Any, content: bytes, logger: Log) -> bool:
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise BackendUnavailable(
            f"{_named(trt)} does not read the engine that it has just refitted: {logger.reason()}. "
            "If the GPU's memory is full, end other programs on it."
        )
    return bool(engine.refittable)


def _named(trt: ModuleType) -> str:
    return f"{trt.__name__} {trt.__version__}"
