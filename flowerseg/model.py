"""The network: torchvision's DeepLabV3 with two classes, and its deployable form."""

from enum import StrEnum
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import segmentation
from torchvision.models.segmentation.deeplabv3 import ASPPPooling

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

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        build = getattr(segmentation, architecture)
        network = build(weights=None, weights_backbone=None, num_classes=2, aux_loss=False)
        self.architecture = architecture
        self.backbone: nn.Module = network.backbone
        self.classifier: nn.Sequential = network.classifier
        # The study's 3 x 3 head, padded, so that it does not shrink the map.
        self.classifier[4] = nn.Conv2d(256, 2, kernel_size=3, padding=1)
        _broadcast_pooled_branch(self.classifier)
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
        # TensorRT takes uint8 only at the border: cast first, transpose after.
        samples = (images.float().permute(0, 3, 1, 2) - self.mean) / self.std
        samples = samples.to(self.head.weight.dtype)
        scores = self.classifier(self.backbone(samples)["out"]).float()
        margin = scores[:, 1:] - scores[:, :1]
        size_hw = images.shape[1:3]
        upsampled = functional.interpolate(
            margin, size=size_hw, mode="bilinear", align_corners=False
        )
        return upsampled[:, 0]


class Deployable(nn.Module):
    """A FlowerNet as it ships: uint8 frames in, uint8 probabilities out."""

    def __init__(self, network: FlowerNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """`foreground` (N, H, W), uint8, from `images` (N, H, W, 3), uint8, RGB."""
        probability = torch.sigmoid(self.network(images))
        # floor(256 p): value >= 128 is exactly p >= 0.5. The cast to uint8 is what floors.
        return (probability * 256).clamp(max=255).to(torch.uint8)


class _BroadcastPooling(nn.Sequential):
    """ASPP's image-level branch: pooled to 1 x 1, then the same value at every place.

    torchvision resizes the 1 x 1 map bilinearly. That copies one value everywhere, but exports as
    a Resize with computed sizes, which runtimes treat differently.
    """

    def forward(self, features: Tensor) -> Tensor:
        pooled: Tensor = super().forward(features)  # type: ignore[no-untyped-call]  # torch's
        return pooled.expand(-1, -1, features.shape[-2], features.shape[-1])


def _broadcast_pooled_branch(classifier: nn.Sequential) -> None:
    branches = cast(nn.ModuleList, cast(Any, classifier[0]).convs)
    pooling = branches[-1]
    if not isinstance(pooling, ASPPPooling):
        raise AssertionError(f"torchvision's ASPP changed: last branch is {type(pooling)}")
    branches[-1] = _BroadcastPooling(*pooling)
