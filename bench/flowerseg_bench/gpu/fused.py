"""A DeepLabV3 of a ResNet whose convolutions, sums and ReLUs are single cuDNN calls; for the probe.

cuDNN computes `relu(convolution + bias + other)` in one kernel, so activations are written once
and not four times. PyTorch has those calls (`aten.cudnn_convolution_relu`, `_add_relu`), and uses
them itself for frozen TorchScript modules only. They have no meta kernel, so this network runs
eagerly or in a CUDA graph and cannot be exported.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowerseg.arrays import SizeHW
from flowerseg.model import FlowerNet, foreground_from_logits, specialised


class FusedConvolution(nn.Module):
    """A convolution with its bias, an addend and a ReLU; one kernel on a GPU in half precision.

    Args:
        convolution: with its BatchNorm folded into it.
        kind: type of weights and activations.
        has_relu: without one PyTorch's plain convolution is used.
        is_fused: whether cuDNN's joint call may be used, on a GPU.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        kind: torch.dtype,
        *,
        has_relu: bool = True,
        is_fused: bool = True,
    ) -> None:
        super().__init__()
        weight = convolution.weight.detach().to(kind, memory_format=torch.channels_last)
        bias = cast(Tensor, convolution.bias).detach().to(kind)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self._stride, self._dilation = convolution.stride, convolution.dilation
        self._padding = cast(tuple[int, ...], convolution.padding)
        self._has_relu = has_relu
        self._is_fused = is_fused and has_relu

    def forward(self, features: Tensor, addend: Tensor | None = None) -> Tensor:
        """Activations (N, C, H, W), channels last, of `features` likewise."""
        if self._is_fused and features.is_cuda:
            return self.in_one_call(features, addend)
        return self._in_steps(features, addend)

    def in_one_call(self, features: Tensor, addend: Tensor | None = None) -> Tensor:
        """The same by cuDNN's joint call, which is for CUDA only."""
        how = (self._stride, self._padding, self._dilation, 1)
        joint = torch.ops.aten
        if addend is None:
            result = joint.cudnn_convolution_relu(features, self.weight, self.bias, *how)
        else:
            result = joint.cudnn_convolution_add_relu(
                features, self.weight, addend, 1.0, self.bias, *how
            )
        return cast(Tensor, result)

    def _in_steps(self, features: Tensor, addend: Tensor | None) -> Tensor:
        result = functional.conv2d(
            features, self.weight, self.bias, self._stride, self._padding, self._dilation
        )
        if addend is not None:
            result = result + addend
        return functional.relu(result, inplace=True) if self._has_relu else result


class FusedBlock(nn.Module):
    """torchvision's Bottleneck: three convolutions, and the sum with their input in the last."""

    def __init__(self, block: Any, kind: torch.dtype) -> None:
        super().__init__()
        self.first = FusedConvolution(block.conv1, kind)
        self.second = FusedConvolution(block.conv2, kind)
        self.third = FusedConvolution(block.conv3, kind)
        self.shortcut: nn.Module = (
            FusedConvolution(block.downsample[0], kind, has_relu=False)
            if block.downsample
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Activations of the block."""
        result: Tensor = self.third(self.second(self.first(features)), self.shortcut(features))
        return result


class FusedNetwork(nn.Module):
    """A FlowerNet of a ResNet as it ships, from frames (N, H, W, 3) to `foreground` (N, H, W).

    Args:
        network: in FP32, in eval mode.
        size_hw: size of the frames.
        kind: type of weights and activations between normalisation and the last upsampling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: FlowerNet, size_hw: SizeHW, kind: torch.dtype) -> None:
        super().__init__()
        folded = specialised(network, size_hw)  # without BatchNorms: they are in the convolutions
        backbone, (pyramid, last, *_) = cast(Any, folded.backbone), cast(Any, folded.classifier)
        # cuDNN's joint call takes 17 times as long for three channels (pytorch issue 68506).
        self.stem = FusedConvolution(backbone.conv1, kind, is_fused=False)
        layers = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
        self.blocks = nn.Sequential(*(FusedBlock(b, kind) for layer in layers for b in layer))
        *branches, pooling = pyramid.convs
        self.branches = nn.ModuleList(FusedConvolution(each[0], kind) for each in branches)
        self.pooled = FusedConvolution(pooling[1], kind)
        self.project = FusedConvolution(pyramid.project[0], kind)
        self.last = FusedConvolution(last, kind)
        self.head = FusedConvolution(folded.head, kind, has_relu=False)
        self.register_buffer("mean", folded.mean)
        self.register_buffer("std", folded.std)

    def forward(self, images: Tensor) -> Tensor:
        """`foreground` (N, H, W), uint8, from `images` (N, H, W, 3), uint8, RGB."""
        samples = (images.float().permute(0, 3, 1, 2) - self.mean) / self.std
        features = self.stem(samples.to(self.stem.weight.dtype))
        features = self.blocks(functional.max_pool2d(features, 3, stride=2, padding=1))
        pooled = self.pooled(features.mean((2, 3), keepdim=True))
        # Materialised, or the joined map would be channels first: an expanded one has no layout.
        pooled = pooled.expand(-1, -1, *features.shape[-2:]).contiguous(
            memory_format=torch.channels_last
        )
        joined = torch.cat([*(branch(features) for branch in self.branches), pooled], dim=1)
        scores = self.head(self.last(self.project(joined))).float()
        upsampled = functional.interpolate(
            scores, size=images.shape[1:3], mode="bilinear", align_corners=False
        )
        return foreground_from_logits(upsampled.squeeze(1))
