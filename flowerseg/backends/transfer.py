"""Batches to and from a device, the same way for every backend that runs on torch tensors."""

import numpy as np
import torch
from torch import Tensor

from flowerseg.arrays import Foreground, Images


class DeviceBatch:
    """Copies over the current stream of one device; on the CPU there is nothing to copy."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._on_gpu = device.startswith("cuda")
        self._staging = torch.empty(0, dtype=torch.uint8)

    def upload(self, images: Images) -> Tensor:
        """The batch (N, H, W, 3) on the device."""
        batch = torch.from_numpy(np.ascontiguousarray(images))
        if not self._on_gpu:
            return batch
        # Pinned memory is what makes the copy asynchronous. The last batch has left it: download
        # and synchronize come between two uploads.
        if self._staging.shape != batch.shape:
            self._staging = torch.empty_like(batch, pin_memory=True)
        self._staging.copy_(batch)
        return self._staging.to(self._device, non_blocking=True)

    def synchronize(self) -> None:
        """Wait for everything on the device's current stream."""
        if self._on_gpu:
            torch.cuda.current_stream(self._device).synchronize()

    def download(self, foreground: Tensor) -> Foreground:
        """The result (N, H, W) in host memory of its own."""
        return np.asarray(foreground.cpu().numpy(), dtype=np.uint8)
