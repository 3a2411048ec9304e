"""The network: torchvision's DeepLabV3 with two classes, and its deployable form."""

import copy
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import segmentation
from torchvision.models.segmentation.deeplabv3 import ASPPPooling

from flowerseg.arrays import SizeHW
from flowerseg.fold import fold_batchnorms
from flowerseg.shapes import without_data

# torchvision.transforms of every ImageNet and COCO weight: per channel, for samples in 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Architecture(StrEnum):
    """The DeepLabV3 variants of torchvision."""

    RESNET101 = "deeplabv3_resnet101"
    RESNET50 = "deeplabv3_resnet50"
    MOBILENET_V3_LARGE = "deeplabv3_mobilenet_v3_large"


class FlowerNet(nn.Module):
    """DeepLabV3 from uint8 frames to one logit a pixel: how much more flower than background.

    The two class scores are subtracted before they are upsampled. Bilinear upsampling is linear,
    so this is the same function with half the work, and the sigmoid of the difference is the
    softmax of the two. There is no auxiliary head: it serves training from scratch only.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture, *, head_padding: int = 1) -> None:
        super().__init__()
        build = getattr(segmentation, architecture)
        network = build(weights=None, weights_backbone=None, num_classes=2, aux_loss=False)
        self.architecture = architecture
        self.backbone: nn.Module = network.backbone
        self.classifier: nn.Sequential = network.classifier
        # The study's 3 x 3 head, padded, so that it does not shrink the map.
        self.classifier[4] = nn.Conv2d(256, 2, kernel_size=3, padding=head_padding)
        _broadcast_pooled_branch(self.classifier)
        _skip_idle_taps(self.classifier)
        mean = 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        std = 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
        # Constants of the contract, not weights: they stay out of the checkpoint.
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def head(self) -> nn.Conv2d:
        """The last layer, the only one that `--trainable head` trains."""
        return cast(nn.Conv2d, self.classifier[4])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, H, W), float32, from images (N, H, W, 3), uint8, RGB."""
        return self.logits(self.features(images), images.shape[1:3])

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: (N, 256, h, w), from images (N, H, W, 3), uint8, RGB."""
        # TensorRT takes uint8 only at the border: cast first, transpose after.
        samples = (images.float().permute(0, 3, 1, 2) - self.mean) / self.std
        features: Tensor = self.backbone(samples)["out"]
        for layer in list(self.classifier)[:4]:
            features = layer(features)
        return features

    def logits(self, features: Tensor, size_hw: Sequence[int]) -> Tensor:
        """Logits (N, H, W), float32, of frames of `size_hw` from their `features`."""
        scores = self.head(features).float()
        # `specialised` has put the difference into the head's weights.
        margin = scores if scores.shape[1] == 1 else scores[:, 1:] - scores[:, :1]
        upsampled = functional.interpolate(
            margin, size=tuple(size_hw), mode="bilinear", align_corners=False
        )
        return upsampled.squeeze(1)


class Deployable(nn.Module):
    """A FlowerNet as it ships: uint8 frames in, uint8 probabilities out."""

    def __init__(self, network: FlowerNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """`foreground` (N, H, W), uint8, from `images` (N, H, W, 3), uint8, RGB."""
        return foreground_from_logits(self.network(images))


def specialised(network: FlowerNet, size_hw: SizeHW) -> FlowerNet:
    """A copy for frames of one size: the same function, up to rounding, with less work.

    Convolutions lose the taps that meet nothing but padding on maps of this size, and take in the
    BatchNorms that follow them; the head gives the difference of the two scores. Both are computed
    before any rounding to half. Averages over a whole map are plain means, which every exporter and
    runtime knows.
    """
    special = copy.deepcopy(network)
    for name in _idle_convolutions(network, size_hw):
        dilated = cast(_DilatedConv, special.get_submodule(name))
        special.set_submodule(name, dilated.centre())
    for name, module in list(special.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            special.set_submodule(name, _MeanOfMap())
    fold_batchnorms(special, _example(size_hw))
    special.classifier[4] = _difference_head(network.head)
    return special


def foreground_from_logits(logits: Tensor) -> Tensor:
    """`min(255, floor(256 p))` (N, H, W), uint8, of the flower's probability p."""
    # floor(256 p): value >= 128 is exactly p >= 0.5. The floor is explicit, because runtimes need
    # not agree on how a cast to uint8 rounds.
    return (torch.sigmoid(logits) * 256).floor().clamp(max=255).to(torch.uint8)


class _BroadcastPooling(nn.Sequential):
    """ASPP's image-level branch: pooled to 1 x 1, then the same value at every place.

    torchvision resizes the 1 x 1 map bilinearly. That copies one value everywhere, but exports as
    a Resize with computed sizes, which runtimes treat differently.
    """

    def forward(self, features: Tensor) -> Tensor:
        pooled: Tensor = super().forward(features)  # type: ignore[no-untyped-call]  # torch's
        everywhere = pooled.expand(-1, -1, features.shape[-2], features.shape[-1])
        if features.is_cuda and features.is_contiguous(memory_format=torch.channels_last):
            # An expanded map has no layout: joined with it, the other branches would become NCHW.
            return everywhere.contiguous(memory_format=torch.channels_last)
        return everywhere


def _broadcast_pooled_branch(classifier: nn.Sequential) -> None:
    branches = cast(nn.ModuleList, cast(Any, classifier[0]).convs)
    pooling = branches[-1]
    if not isinstance(pooling, ASPPPooling):
        raise AssertionError(f"torchvision's ASPP changed: last branch is {type(pooling)}")
    branches[-1] = _BroadcastPooling(*pooling)


class _MeanOfMap(nn.Module):
    """AdaptiveAvgPool2d(1), without the strides that torch's decomposition leaves in a graph."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)


def _difference_head(head: nn.Conv2d) -> nn.Conv2d:
    """The head of two scores -> one that gives the second minus the first."""
    difference = copy.deepcopy(head)
    difference.out_channels = 1
    weight, bias = head.weight.detach(), cast(Tensor, head.bias).detach()
    difference.weight = nn.Parameter(weight[1:] - weight[:1])
    difference.bias = nn.Parameter(bias[1:] - bias[:1])
    return difference


class _DilatedConv(nn.Conv2d):
    """A padded, dilated 3 x 3 convolution without the taps that meet nothing but padding.

    On a map no larger than the dilation all taps but the centre one read zeros only: two of ASPP's
    three dilated branches on MobileNetV3's 14 x 14 map of a 224 frame, one of ResNet's on 28 x 28.
    Leaving them out is exact, and saves eight ninths of the branch.
    """

    def forward(self, features: Tensor) -> Tensor:
        if not self.is_idle_on(features.shape[-2:]):
            return super().forward(features)
        return functional.conv2d(features, self._centre_tap(), self.bias, groups=self.groups)

    def is_idle_on(self, map_hw: Sequence[int]) -> bool:
        """Whether all taps but the centre one lie outside of every map of this size."""
        return min(self.dilation) >= max(map_hw)

    def centre(self) -> nn.Conv2d:
        """The 1 x 1 convolution that this is where its other taps are idle."""
        has_bias = self.bias is not None
        centre = nn.Conv2d(
            self.in_channels, self.out_channels, 1, groups=self.groups, bias=has_bias
        )
        centre.weight = nn.Parameter(self._centre_tap().detach().clone())
        centre.bias = self.bias
        return centre

    def _centre_tap(self) -> Tensor:
        return self.weight[:, :, 1:2, 1:2]


def _skip_idle_taps(classifier: nn.Sequential) -> None:
    for module in classifier.modules():
        if isinstance(module, nn.Conv2d) and min(module.dilation) > 1:
            # The same weights under the same name; only forward differs.
            module.__class__ = _DilatedConv


def _idle_convolutions(network: FlowerNet, size_hw: SizeHW) -> list[str]:
    """Names of the dilated convolutions that only their centre tap serves in such frames."""
    shapes = without_data(network).eval()  # shapes without arithmetic
    idle: list[str] = []

    def look_for(name: str, module: _DilatedConv) -> None:
        def look(_: nn.Module, inputs: tuple[Tensor]) -> None:
            if module.is_idle_on(inputs[0].shape[-2:]):
                idle.append(name)

        module.register_forward_pre_hook(look)

    for name, module in shapes.named_modules():
        if isinstance(module, _DilatedConv):
            look_for(name, module)
    shapes(_example(size_hw))
    return idle


def _example(size_hw: SizeHW) -> Tensor:
    """One frame on the meta device: a shape without data."""
    return torch.zeros((1, *size_hw, 3), dtype=torch.uint8, device="meta")
