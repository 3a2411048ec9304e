"""TensorRT-RTX at run time: how it compiles kernels on this GPU, and where it keeps them.

An engine of TensorRT-RTX is finished by a just-in-time compiler on the GPU where it runs. The
names used in this module exist in TensorRT-RTX 1.4 (the oldest version that the `rtx` extra
takes) and in 1.7.1, and in no version of TensorRT.
"""

from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from flowerseg.backends.gpucache import OnNotice, read_cache, write_cache
from flowerseg.errors import BackendUnavailable


class RuntimeCache:
    """The kernels that were compiled for one engine on one GPU, in memory and in a file.

    All contexts of the engine share it. It outlives them.

    Args:
        path: the file; it may be missing.
        on_notice: called with a line where the file cannot be used or written.
    """

    def __init__(self, path: Path, on_notice: OnNotice) -> None:
        self._path = path
        self._on_notice = on_notice
        self._lock = Lock()  # each backend of the engine is closed by a thread of its own
        self._cache: Any = None
        self._stored = b""

    def attach(self, config: Any) -> None:
        """Let contexts of this runtime config take kernels from the cache, and add to it.

        The engine's CUDA context must be current: TensorRT-RTX compares the file with it.
        """
        with self._lock:
            if self._cache is None:
                self._cache = config.create_runtime_cache()
                self._load()
            if self._cache is None or not config.set_runtime_cache(self._cache):
                self._on_notice(
                    "TensorRT-RTX takes no runtime cache; every start compiles its kernels again"
                )

    def save(self) -> None:
        """Write what was compiled since the file was read."""
        with self._lock:
            if self._cache is None:
                return
            serialized = self._cache.serialize()
            if serialized is None:
                self._on_notice(
                    f"{self._path}: runtime cache not written: TensorRT-RTX does not serialize it; "
                    "the next start compiles the kernels again"
                )
                return
            content = bytes(serialized)
            if content != self._stored:
                write_cache(self._path, content, self._on_notice)
                self._stored = content

    def _load(self) -> None:
        content = read_cache(self._path, self._on_notice) if self._cache is not None else b""
        if not content:
            return
        if self._cache.deserialize(content):
            self._stored = content
        else:  # and the cache is as empty as before (documentation of IRuntimeCache)
            self._on_notice(
                f"{self._path}: runtime cache not used: TensorRT-RTX refuses it (damaged, or from "
                "another GPU, driver or version); kernels are compiled again and the file replaced"
            )


def runtime_config(trt: ModuleType, engine: Any, cache: RuntimeCache, *, cuda_graph: bool) -> Any:
    """What a context of an engine is made with.

    Args:
        trt: the module `tensorrt_rtx`.
        engine: a deserialised engine.
        cache: compiled kernels.
        cuda_graph: let TensorRT-RTX capture a CUDA graph for each batch size and replay it. It
            captures again where a shape or an address changes.

    Raises:
        BackendUnavailable: TensorRT-RTX makes no runtime config, or keeps another setting.
    """
    config = engine.create_runtime_config()
    if config is None:
        raise BackendUnavailable(
            f"TensorRT-RTX {trt.__version__} makes no runtime config; its lines on stderr say why."
        )
    # LAZY, the default, runs a fallback kernel until the specialised one is compiled in the
    # background, and then swaps them: rounding would change in the middle of a run, and the proof
    # would hold for kernels that no longer run. EAGER compiles at the first batch of each size.
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    config.dynamic_shapes_kernel_specialization_strategy = eager
    graphs = trt.CudaGraphStrategy
    wanted = graphs.WHOLE_GRAPH_CAPTURE if cuda_graph else graphs.DISABLED
    config.cuda_graph_strategy = wanted
    # The setters return nothing, also where TensorRT-RTX refuses: read the settings back.
    _require(trt, "EAGER", kept=config.dynamic_shapes_kernel_specialization_strategy == eager)
    _require(trt, wanted.name, kept=config.cuda_graph_strategy == wanted)
    cache.attach(config)
    return config


def _require(trt: ModuleType, setting: str, *, kept: bool) -> None:
    if not kept:
        raise BackendUnavailable(
            f"TensorRT-RTX {trt.__version__} does not take the runtime setting {setting}. "
            'Install another version (pip install -U "flowerseg[rtx]"), or run the ONNX file.'
        )
