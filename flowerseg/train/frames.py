"""Training frames: photos kept small in memory, and cropped, flipped and recoloured on the way."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from flowerseg.arrays import Labels, Rgb, SizeHW
from flowerseg.data import PhotoSet
from flowerseg.evaluate import read_pair
from flowerseg.preprocess import Preprocess, frame_from_labels, frame_from_photo

# Photos are kept a seventh larger than the frame and crops are a seventh smaller: with crops of 40
# to 100 % of the area a flower is seen at 0.75 to 1.2 times the size that it has in the frame.
_KEPT = 8 / 7
_CROP = 6 / 7
_CROP_AREA = (0.4, 1.0)
_STRIDE = 32  # of the encoders: crops that are multiples waste nothing at the border


class TrainingFrames(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops: images (H, W, 3) uint8 and labels (H, W) uint8.

    Randomness comes from torch's generator, which DataLoader seeds per worker and epoch.
    """

    def __init__(self, photos: PhotoSet, preprocess: Preprocess) -> None:
        kept = replace(preprocess, size_hw=_scaled(preprocess.size_hw, _KEPT))
        self._pairs = [_kept_pair(*read_pair(item), kept) for item in photos.photos]
        self._augment = v2.Compose(
            [
                v2.RandomResizedCrop(
                    _scaled(preprocess.size_hw, _CROP), _CROP_AREA, antialias=True
                ),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
            ]
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self._augment(*self._pairs[index])
        return image.permute(1, 2, 0).contiguous(), torch.as_tensor(labels)


def _kept_pair(
    rgb: Rgb, labels: Labels, kept: Preprocess
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    image = torch.from_numpy(frame_from_photo(rgb, kept)).permute(2, 0, 1).contiguous()
    # As a Mask the transforms move it with its photo, by nearest neighbour, and never recolour it.
    truth = torch.from_numpy(frame_from_labels(labels, kept))
    return tv_tensors.Image(image), tv_tensors.Mask(truth)


def _scaled(size_hw: SizeHW, factor: float) -> SizeHW:
    height, width = (max(_STRIDE, round(side * factor / _STRIDE) * _STRIDE) for side in size_hw)
    return height, width
