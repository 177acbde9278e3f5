"""Change the number of pixels: ``Resize``, ``RandomResizedCrop``.

Pillow's resampling with antialiasing, bit for bit; on tensors torchvision's own differs from it by a level at most.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.resample import FILTERS
from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images, Rules
from torchspeed.data.pipeline.operation import Operation, Params, Sizes, Unreadable
from torchspeed.data.transforms.boxes import draw_boxes
from torchspeed.data.transforms.crop import size_of
from torchspeed.data.transforms.reading import Place, filter_name, no_levels_after_conversion, rules_of, shown


@final
@dataclass(frozen=True, kw_only=True)
class Resize(Operation):
    """To ``height`` × ``width``, or else the shorter side to ``shorter``, and the longer one to ``longest`` at most."""

    height: int = 0
    width: int = 0
    shorter: int | None = None
    longest: int | None = None
    filter: str
    rules: Rules

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        if self.shorter is None:
            return np.full_like(heights, self.height), np.full_like(widths, self.width)
        short, long = np.minimum(heights, widths), np.maximum(heights, widths)
        new_short = np.full_like(short, self.shorter)
        new_long = (self.shorter * long / short).astype(np.int64)
        if self.longest is not None:
            over = new_long > self.longest
            new_short = np.where(over, (self.longest * new_short / new_long).astype(np.int64), new_short)
            new_long = np.where(over, self.longest, new_long)
        upright = widths <= heights
        return np.where(upright, new_long, new_short), np.where(upright, new_short, new_long)

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return ()

    def apply(self, images: Images, params: Params) -> None:
        zero = np.zeros_like(images.heights)
        boxes = np.stack([zero, zero, images.heights, images.widths], axis=1)
        images.resize(boxes, *self.size(images.heights, images.widths), self.filter, self.rules)


def read_resize(transform: Any, place: Place) -> Resize:
    filter_, exact = _filter(transform, place)
    if transform.size is None:
        raise Unreadable("size=None (max_size alone)")
    size = [transform.size] if isinstance(transform.size, int) else list(transform.size)
    label = shown(transform, transform.size, filter_ if filter_ != "bilinear" else "", max_size=transform.max_size)
    common: dict[str, Any] = {
        "transform": transform,
        "label": label.replace(", )", ")"),
        "random": False,
        "exact": exact,
        "filter": filter_,
        "rules": rules_of(place),
    }
    if len(size) == 1:
        return Resize(shorter=size[0], longest=transform.max_size, **common)
    return Resize(height=size[0], width=size[1], **common)


@final
@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(Operation):
    """A box of ``scale`` of the area and of an aspect ratio in ``ratio``, resampled to ``height`` × ``width``."""

    height: int
    width: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    filter: str
    rules: Rules

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return np.full_like(heights, self.height), np.full_like(widths, self.width)

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        boxes, found = draw_boxes(
            draws,
            heights,
            widths,
            scale=self.scale,
            ratio=self.ratio,
            wanted=np.ones(len(heights), np.bool_),
            fits=lambda height, width: (width > 0) & (width <= widths) & (height > 0) & (height <= heights),
        )
        return (boxes if found.all() else np.where(found[:, None], boxes, _central(heights, widths, self.ratio)),)

    def apply(self, images: Images, params: Params) -> None:
        heights, widths = self.size(images.heights, images.widths)
        images.resize(params[0], heights, widths, self.filter, self.rules)


def read_random_resized_crop(transform: Any, place: Place) -> RandomResizedCrop:
    filter_, exact = _filter(transform, place)
    height, width = size_of(transform.size)
    low, high = transform.scale
    return RandomResizedCrop(
        transform=transform,
        label=shown(transform, transform.size, scale=None if (low, high) == (0.08, 1.0) else (low, high)),
        random=True,
        exact=exact,
        height=height,
        width=width,
        scale=(low, high),
        ratio=(transform.ratio[0], transform.ratio[1]),
        filter=filter_,
        rules=rules_of(place),
    )


def _central(heights: Sizes, widths: Sizes, ratio: tuple[float, float]) -> NDArray[np.int64]:
    """The largest central box of each image whose aspect ratio is in ``ratio``."""
    boxes = np.empty((len(heights), 4), np.int64)
    for box, height, width in zip(boxes, heights.tolist(), widths.tolist(), strict=True):
        h, w = height, width
        if width / height < min(ratio):
            h = round(width / min(ratio))
        elif width / height > max(ratio):
            w = round(height * max(ratio))
        box[:] = (height - h) // 2, (width - w) // 2, h, w
    return boxes


def _filter(transform: Any, place: Place) -> tuple[str, bool]:
    """The filter, and whether it is bit for bit that of the transform."""
    no_levels_after_conversion(place)
    name = filter_name(transform.interpolation)
    if place.holds == "pil":
        if name == "nearest-exact":
            name = "nearest"
        if name not in FILTERS:
            raise Unreadable(f"interpolation={name}")
        return name, True
    if name != "bilinear":
        raise Unreadable(
            f"interpolation={name} of tensors, where torchvision's differs from Pillow's by two levels and more"
        )
    if transform.antialias is not True:
        raise Unreadable(f"resizes tensors without antialiasing (antialias={transform.antialias})")
    return name, False
