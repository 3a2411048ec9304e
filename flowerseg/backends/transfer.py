"""Batches to and from a device, the same way for every backend that runs on device memory."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowerseg.arrays import Foreground, Images


class Network(Protocol):
    """Foreground (N, H, W) of images (N, H, W, 3), both on the device."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Run it."""


class HostBatch:
    """On the CPU there is nothing to copy and nothing to wait for."""

    def working(self) -> AbstractContextManager[Any]:
        """Where the device's work is given to it."""
        return nullcontext()

    def upload(self, images: Images) -> Tensor:
        """The batch (N, H, W, 3)."""
        return torch.from_numpy(np.ascontiguousarray(images))

    def synchronize(self) -> None:
        """Nothing."""

    def download(self, foreground: Tensor) -> Foreground:
        """The result (N, H, W), in memory that nothing else writes to."""
        return np.asarray(foreground.numpy(), dtype=np.uint8)


@dataclass(frozen=True)
class DeviceMemory:
    """Memory that a batch size keeps: graphs are recorded with its addresses."""

    images: Tensor  # (N, H, W, 3)
    foreground: Tensor  # (N, H, W), for runtimes that are told where to write
    host_images: Tensor  # pinned, which is what lets a copy run beside the device's work
    host_foreground: Tensor


class DeviceBatch:
    """Copies and work on a CUDA stream of their own, in memory that stays where it is."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's
        self._memories: dict[tuple[int, ...], DeviceMemory] = {}

    def working(self) -> AbstractContextManager[Any]:
        """The stream and its device are the thread's current ones within."""
        return torch.cuda.stream(self.stream)

    def memory(self, shape: tuple[int, ...]) -> DeviceMemory:
        """The memory of batches (N, H, W, 3) of a shape."""
        if shape not in self._memories:
            with self.working():
                self._memories[shape] = DeviceMemory(
                    torch.empty(shape, dtype=torch.uint8, device=self._device),
                    torch.empty(shape[:3], dtype=torch.uint8, device=self._device),
                    torch.empty(shape, dtype=torch.uint8, pin_memory=True),
                    torch.empty(shape[:3], dtype=torch.uint8, pin_memory=True),
                )
        return self._memories[shape]

    def upload(self, images: Images) -> Tensor:
        """Start to copy the batch (N, H, W, 3); where it will be on the device."""
        memory = self.memory(images.shape)
        # The last batch has left the pinned memory: a download has waited for it.
        memory.host_images.numpy()[...] = images
        with self.working():
            memory.images.copy_(memory.host_images, non_blocking=True)
        return memory.images

    def synchronize(self) -> None:
        """Wait for the stream."""
        self.stream.synchronize()

    def download(self, foreground: Tensor) -> Foreground:
        """The result (N, H, W) in host memory of its own."""
        host = self.memory((*foreground.shape, 3)).host_foreground
        with self.working():
            host.copy_(foreground, non_blocking=True)
        self.stream.synchronize()
        return np.array(host.numpy())


TensorBatch: TypeAlias = HostBatch | DeviceBatch


def batch_on(device: str) -> TensorBatch:
    """What carries batches to `cpu` or `cuda:N`."""
    return DeviceBatch(device) if device.startswith("cuda") else HostBatch()


# What one thread does to the device's memory may break what another one records.
_RECORDING = Lock()
_RUNS_BEFORE = 3  # libraries choose their kernels and take their memory in the first runs


class CudaGraph:
    """A network whose kernels are recorded once for a batch size, and then started as one.

    Source: torch.cuda.graph's documentation, "whole-network capture": static input, a few runs on
    the stream before the recording, and an output that the next run overwrites.

    Args:
        network: what is recorded; it may not look at values on the host.
        batch: whose stream and whose memory are recorded.
    """

    def __init__(self, network: Network, batch: DeviceBatch) -> None:
        self._network = network
        self._batch = batch
        # One pool for the graphs of all batch sizes: they replay one after the other on one stream,
        # and a result is downloaded before the next replay may overwrite it.
        self._pool: Any = None
        self._recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Replay the graph of the batch's size, on the current stream."""
        key = (images.shape[0], images.data_ptr())
        if key not in self._recorded:
            with _RECORDING:
                self._recorded[key] = self._record(images)
        graph, foreground = self._recorded[key]
        graph.replay()
        return foreground

    def _record(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        for _ in range(_RUNS_BEFORE):
            self._network(images)
        self._batch.synchronize()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other streams' threads go on meanwhile, which only the recording thread may not do.
        with torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._batch.stream,
            capture_error_mode="thread_local",
        ):
            foreground = self._network(images)
        return graph, foreground


def recorded(network: Network, batch: TensorBatch, *, cuda_graph: bool) -> Network:
    """The network, as a CUDA graph where one is requested.

    Raises:
        ValueError: a graph on the CPU, which `open_backends` refuses before.
    """
    if not cuda_graph:
        return network
    if isinstance(batch, HostBatch):
        raise ValueError("a CUDA graph on the CPU")
    return CudaGraph(network, batch)
