"""Cut a part out: ``CenterCrop``, ``RandomCrop`` with all its paddings."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import BLACK, Fill, Images, PadMode
from torchspeed.data.pipeline.operation import Operation, Params, Sizes, Unreadable
from torchspeed.data.transforms.pad import check_padding, padding_mode, sides
from torchspeed.data.transforms.reading import Place, one_fill, shown


@final
@dataclass(frozen=True, kw_only=True)
class CenterCrop(Operation):
    height: int
    width: int
    fill: Fill

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return np.full_like(heights, self.height), np.full_like(widths, self.width)

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return ()

    def apply(self, images: Images, params: Params) -> None:
        top, left = _centred(images.heights, self.height), _centred(images.widths, self.width)
        images.crop(top, left, self.height, self.width, self.fill)


def read_center_crop(transform: Any, place: Place) -> CenterCrop:
    height, width = size_of(transform.size)
    return CenterCrop(
        transform=transform,
        label=shown(transform, transform.size),
        random=False,
        moves=True,
        height=height,
        width=width,
        fill=Fill(BLACK.values, place.stage),
    )


def _centred(have: Sizes, want: int) -> Sizes:
    """Where the part begins; torchvision pads what is too small by half on each side, rounded down before it."""
    spare = np.rint((have - want) / 2.0).astype(np.int64)  # half to even, as Python rounds
    return np.where(have < want, -((want - have) // 2), spare)


@final
@dataclass(frozen=True, kw_only=True)
class RandomCrop(Operation):
    """``pad_first``: left, top, right, bottom. ``v2`` draws nothing along an axis that leaves no choice."""

    height: int
    width: int
    pad_first: tuple[int, int, int, int]
    pad_if_needed: bool
    mode: PadMode
    fill: Fill
    v2: bool

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        before = heights, widths
        heights, widths = self._padded(heights, widths)
        if heights is not before[0] or widths is not before[1]:
            check_padding(self._paddings(*before), self.mode, *before)
        if (heights < self.height).any() or (widths < self.width).any():
            raise Unreadable(f"cuts {self.height} × {self.width} out of smaller images, which raises an error")
        return np.full_like(heights, self.height), np.full_like(widths, self.width)

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        heights, widths = self._padded(heights, widths)
        spare_rows, spare_columns = heights - self.height, widths - self.width
        if self.v2:
            choose_row, choose_column = spare_rows > 0, spare_columns > 0
        else:
            choose_row = choose_column = (spare_rows > 0) | (spare_columns > 0)
        top = draws.only(choose_row).randint(0, spare_rows + 1)
        left = draws.only(choose_column).randint(0, spare_columns + 1)
        return np.where(choose_row, top, 0), np.where(choose_column, left, 0)

    def apply(self, images: Images, params: Params) -> None:
        padding = self._paddings(images.heights, images.widths)
        if any(padding):
            images.pad(*padding, self.mode, self.fill)
        images.crop(params[0], params[1], self.height, self.width)

    def _paddings(self, heights: Sizes, widths: Sizes) -> tuple[int, int, int, int]:
        """All that is padded, for images of one size."""
        left, top, right, bottom = self.pad_first
        if self.pad_if_needed:
            more_rows = max(0, self.height - int(heights[0]) - top - bottom)
            more_columns = max(0, self.width - int(widths[0]) - left - right)
            left, top, right, bottom = left + more_columns, top + more_rows, right + more_columns, bottom + more_rows
        return left, top, right, bottom

    def _padded(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        if not any(self.pad_first) and not self.pad_if_needed:
            return heights, widths
        left, top, right, bottom = self._paddings(heights, widths)
        return heights + top + bottom, widths + left + right


def read_random_crop(transform: Any, place: Place) -> RandomCrop:
    height, width = size_of(transform.size)
    mode = padding_mode(transform.padding_mode, place)
    first = sides(transform.padding) if transform.padding is not None else (0, 0, 0, 0)
    if place.v2 and transform.padding is not None:
        left, right, top, bottom = transform.padding  # torchvision v2 keeps them in PyTorch's order
        first = left, top, right, bottom
    if mode != "constant" and transform.pad_if_needed and any(first):
        raise Unreadable(f"pads twice (padding and pad_if_needed, {mode})")
    return RandomCrop(
        transform=transform,
        label=shown(
            transform,
            transform.size,
            padding=None if transform.padding is None else first[0] if len(set(first)) == 1 else first,
            padding_mode=None if mode == "constant" else mode,
        ),
        random=True,
        moves=True,
        height=height,
        width=width,
        pad_first=first,
        pad_if_needed=transform.pad_if_needed,
        mode=mode,
        fill=one_fill(transform.fill, place),
        v2=place.v2,
    )


def size_of(size: Any) -> tuple[int, int]:
    """(height, width) of one number or two."""
    if isinstance(size, int):
        return size, size
    numbers = [int(number) for number in size]
    return numbers[0], numbers[-1]
