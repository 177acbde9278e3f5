"""Whole batches of augmented images, from bytes to normalised floats.

The usual augmentations of small images move pixels without changing them: a translation and a mirror image are a
map from each output row and column to an input row and column. So a batch of them is one gather by computed index,
whatever the options, and costs a few passes over memory where a Python call per image costs 100 µs. Pixels stay bytes
until after the gather: a quarter of the traffic. The result is bit for bit what each image gives alone.

Translation: Krizhevsky et al., NIPS 2012, section 4.1, in the padded form of He et al., arXiv:1512.03385, section
4.2. Cutout: DeVries & Taylor, arXiv:1708.04552.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.batched import BatchedDataset
from torchspeed.data.flips import alternating_flips, random_flips
from torchspeed.data.random import Keys, integers
from torchspeed.errors import DataError

_ROW_STREAM, _COLUMN_STREAM = 0, 1  # flips draw from stream 2
_CUTOUT_ROW_STREAM, _CUTOUT_COLUMN_STREAM = 3, 4

Padding = Literal["reflect", "zero"]
Flip = Literal["none", "random", "alternating"]


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel, in units where white is 1. ``images``: uint8 [N, H, W, C]."""
    count = images[..., 0].numel()
    total = squares = torch.zeros(images.shape[-1], dtype=torch.float64)
    for chunk in torch.split(images, 256):  # a chunk in float64 stays in cache; integers add up exactly there
        levels = chunk.flatten(0, -2).to(torch.float64)
        total = total + levels.sum(0)
        squares = squares + (levels.T @ levels).diagonal()
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


class ImageBatches(BatchedDataset):
    """Images and labels, augmented and normalised a batch at a time.

    ``images``: uint8 [N, H, W, C]; ``labels``: [N]. A batch is (float32 [B, C, H, W], labels [B]); the images are
    ``(pixel / 255 - mean) / std`` and lie in memory as [B, H, W, C], which PyTorch calls channels_last.

    ``translate``: pixels to move by, at most, in each direction, filling in by ``padding`` ("reflect" repeats what
    is there without the border, "zero" is black). ``flip``: "none", "random" or "alternating" left to right, see
    ``torchspeed.data.flips``. ``cutout``: side of the square set to the mean colour, whose centre falls anywhere
    in the image. Without these a batch does not depend on its keys.

    Raises ``DataError`` if images and labels do not fit these shapes or each other.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        translate: int = 0,
        padding: Padding = "reflect",
        flip: Flip = "none",
        cutout: int = 0,
    ) -> None:
        _check(images, labels, mean, std, translate, padding, flip, cutout)
        _, self.height, self.width, channels = images.shape
        self.labels, self.translate, self.padding, self.flip, self.cutout = (
            labels,
            translate,
            padding,
            flip,
            cutout,
        )
        self.images = images.contiguous()
        self.pixels = self.images.view(-1, channels)
        # One value per element of a row: broadcasting over the last 3 numbers alone runs 3 numbers at a time.
        self.row_mean = torch.tensor(mean).repeat(self.width)
        self.row_std = torch.tensor(std).repeat(self.width)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> tuple[Tensor, Tensor]:
        where = torch.from_numpy(indices)
        moved = self.translate or self.flip != "none"
        picked = self._gather(indices, keys) if moved else self.images.index_select(0, where)
        rows = picked.view(len(indices), self.height, -1).to(torch.float32)
        # The order of operations of torchvision's ToTensor and Normalize, so that the bits are the same.
        rows.div_(255).sub_(self.row_mean).div_(self.row_std)
        normalised = rows.view(len(indices), self.height, self.width, -1)
        if self.cutout:
            normalised.masked_fill_(self._cutout_boxes(keys), 0.0)
        return normalised.permute(0, 3, 1, 2), self.labels.index_select(0, where)

    def _gather(self, indices: NDArray[np.int64], keys: Keys) -> Tensor:
        """uint8 [B·H·W, C]: the pixel that each place of the augmented images takes."""
        reach = self.translate
        rows, columns = np.arange(self.height)[None], np.arange(self.width)[None]
        if self.flip != "none":
            flipped = random_flips(keys) if self.flip == "random" else alternating_flips(keys, indices)
            columns = np.where(flipped[:, None], columns[:, ::-1], columns)
        if reach:
            rows = rows + integers(keys, _ROW_STREAM, -reach, reach + 1)[:, None]
            columns = columns + integers(keys, _COLUMN_STREAM, -reach, reach + 1)[:, None]
        source_rows = _reflected(self.height, reach)[rows + reach]
        source_columns = _reflected(self.width, reach)[columns + reach]
        places = ((indices[:, None] * self.height + source_rows) * self.width)[:, :, None] + source_columns[:, None, :]
        picked = self.pixels.index_select(0, torch.from_numpy(places.reshape(-1)))
        if reach and self.padding == "zero":
            outside = ((rows < 0) | (rows >= self.height))[:, :, None] | ((columns < 0) | (columns >= self.width))[
                :, None
            ]
            picked.masked_fill_(torch.from_numpy(outside).view(-1, 1), 0)
        return picked

    def _cutout_boxes(self, keys: Keys) -> Tensor:
        """bool [B, H, W, 1]: true inside the box of each image."""
        inside = []
        for stream, side in ((_CUTOUT_ROW_STREAM, self.height), (_CUTOUT_COLUMN_STREAM, self.width)):
            start = integers(keys, stream, 0, side)[:, None] - self.cutout // 2
            places = np.arange(side)
            inside.append((places >= start) & (places < start + self.cutout))
        return torch.from_numpy(inside[0][:, :, None, None] & inside[1][:, None, :, None])


def _reflected(side: int, reach: int) -> NDArray[np.int64]:
    """Places of ``range(-reach, side + reach)`` inside an image whose border is a mirror."""
    return np.pad(np.arange(side), reach, mode="reflect")


def _check(
    images: Tensor,
    labels: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    translate: int,
    padding: str,
    flip: str,
    cutout: int,
) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise DataError(f"images are {images.dtype} {list(images.shape)}; they must be uint8 [N, H, W, C]")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{len(images)} images but labels of shape {list(labels.shape)}; one label per image is needed")
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise DataError(f"mean {mean} and std {std} must be {channels} numbers each, one per channel, std above 0")
    if not 0 <= translate < min(images.shape[1:3]):
        raise DataError(
            f"translate={translate} must be at least 0 and less than the image's side, {min(images.shape[1:3])}"
        )
    if padding not in ("reflect", "zero") or flip not in ("none", "random", "alternating") or cutout < 0:
        raise DataError(
            f"padding={padding!r}, flip={flip!r}, cutout={cutout}: choose padding reflect or zero, flip none, random "
            "or alternating, and a cutout of at least 0 pixels"
        )
