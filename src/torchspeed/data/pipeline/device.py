"""``DeviceImages``: the instructions of ``Images`` carried out by a device on images that lie in its memory.

A device is told what to do by a processor that runs ahead of it, and two things spoil that: a copy for each parameter,
and any question to the device, which has to be waited for. So the instructions are written down first, as a tape of
plain functions ``(pixels, parameters) -> pixels`` (``device_geometry``, ``device_color``) beside a list of the arrays
that they need; the arrays travel together (``parcel``), and then the tape is played. Since nothing on it depends on
values, the batches of one size have the same tape, and it can be compiled.

An instruction under ``only`` is carried out on all images and kept where it is wanted: a kernel for all costs less than
a shape that changes with every batch. What merely moves pixels is maps here too, as on the host: crops, flips, and a
nearest-neighbour resize or shift.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.kernels import smooth
from torchspeed.data.kernels.resample import FILTERS, pillow_chooses
from torchspeed.data.pipeline import device_color as color
from torchspeed.data.pipeline import device_geometry as geometry
from torchspeed.data.pipeline.images import Fill, Images, Map, Mask, Rules


class Call(NamedTuple):
    """``function(pixels, *arrays, *constants)``; ``arrays``, ``mask``: places in the list of arrays, or None."""

    function: Callable[..., Tensor]
    arrays: tuple[int | None, ...]
    constants: tuple[Any, ...]
    mask: int | None


Tape = tuple[Call, ...]


def play(tape: Tape, levels: Tensor, arrays: Sequence[Tensor]) -> Tensor:
    """``levels``: uint8 [N, H, W, C], the images of a dataset; the first call on the tape takes a batch out of them."""
    pixels = levels
    for function, places, constants, mask in tape:
        changed = function(pixels, *[None if place is None else arrays[place] for place in places], *constants)
        pixels = changed if mask is None else torch.where(arrays[mask][:, None, None, None], changed, pixels)
    return pixels


@final
class DeviceImages(Images):
    """``height``, ``width``, ``channels``: of the stored images; ``index``: int64 [B], which of them."""

    def __init__(self, height: int, width: int, channels: int, index: NDArray[np.int64]) -> None:
        super().__init__(np.full(len(index), height), np.full(len(index), width), channels)
        self.index: NDArray[np.int64] | None = index  # None: the pixels are a batch of their own
        self.arrays: list[NDArray[Any] | Tensor] = []
        self._calls: list[Call] = []

    @property
    def tape(self) -> Tape:
        return tuple(self._calls)

    def pixels(self) -> None:
        """The batch is taken out of the stored images, and the owed maps are carried out."""
        if self.index is None and self.rows is None and self.columns is None:
            return
        fills = np.array([fill.over(self.channels) for fill in self.fills], np.uint8) if self.fills else None
        self._do(geometry.gather, self.index, *self._maps(), fills, for_all=True)
        self.index = self.rows = self.columns = None
        self.fills.clear()

    def convert(self, fills: NDArray[Any] | None, table: Tensor, channels_last: bool) -> None:
        """The owed maps, and every level looked up in ``table`` [C, 256]: [B, C, H, W]. No other instruction follows.

        ``fills``: [K, C], the bits of the output's dtype, in the order of ``self.fills``; None if there are none.
        """
        self._do(geometry.convert, self.index, *self._maps(), fills, table, constants=(channels_last,), for_all=True)

    def erase(self, boxes: NDArray[np.int64], value: NDArray[Any]) -> None:
        """After ``convert``: ``boxes`` int64 [B, 4] (top, left, height, width) become ``value`` [C]."""
        self._do(geometry.erase, boxes, value, for_all=True)

    def resize(
        self,
        boxes: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        filter: str,
        rules: Rules,
    ) -> None:
        assert self.mask is None, "a resize is for all images, or their sizes would differ"
        height, width = int(heights[0]), int(widths[0])
        top, left, tall, wide = boxes.T
        if filter == "nearest":
            self.rows = _picked(self._rows(), top[:, None] + _nearest(tall, height))
            self.columns = _picked(self._columns(), left[:, None] + _nearest(wide, width))
        else:
            # Asked of the sizes and not of the boxes drawn, so that all batches have the same tape.
            maybe = rules == "pillow" and int(self.heights[0]) > height and pillow_chooses()
            columns_first = (tall > height) & (tall - height > 2 * (wide - width)) & maybe
            mixed = maybe and bool((boxes[:, 2:] != boxes[0, 2:]).any())
            order = "mixed" if mixed else "columns" if columns_first[0] else "rows"
            constants = (height, width, FILTERS.index(filter), order)
            self._change(geometry.resample, boxes, columns_first if mixed else None, constants=constants)
        self.heights, self.widths = heights, widths

    def warp(self, matrices: NDArray[np.float64], filter: str, fill: Fill | None, rules: Rules) -> None:
        height, width = int(self.heights[0]), int(self.widths[0])
        values = np.zeros(self.channels) if fill is None else np.array(fill.over(self.channels))
        if rules != "pillow":
            halves = np.array([[width / 2] * 3 + [height / 2] * 3], np.float32)
            constants = (filter == "bilinear", fill is not None, rules == "tensor v2")
            scaled = matrices.astype(np.float32) / halves
            self._change(geometry.warp_as_tensor, scaled, values.astype(np.float32), constants=constants)
        elif filter == "bilinear":
            self._change(geometry.warp_bilinear, matrices, values.clip(0, 255).astype(np.uint8))
        else:
            self._warp_nearest(matrices, Fill(tuple(values.clip(0, 255).tolist()), 0 if fill is None else fill.stage))

    def _warp_nearest(self, matrices: NDArray[np.float64], fill: Fill) -> None:
        """Pillow steps in doubles where rows stay rows and columns stay columns, and in fixed point elsewhere.

        The former is a pair of maps. Pillow also steps in doubles where fixed point would overflow; here it does not.
        """
        a, b, c, d, e, f = matrices.T
        straight = (b == 0) & (d == 0)
        rows = _stepped(f + e * 0.5 + d * 0.5, e, int(self.heights[0]))
        columns = _stepped(c + b * 0.5 + a * 0.5, a, int(self.widths[0]))
        if straight.all():
            code = self._code(fill)
            self.rows = _moved(self._rows(), rows, self.mask, code)
            self.columns = _moved(self._columns(), columns, self.mask, code)
            return
        fixed = np.stack([c + a * 0.5 + b * 0.5, a, b, f + d * 0.5 + e * 0.5, d, e], axis=1)
        fixed = np.floor(fixed * 65536.0 + 0.5).astype(np.int64)
        self._change(
            geometry.warp_nearest, fixed, straight, rows, columns, np.array(fill.over(self.channels), np.uint8)
        )

    def brightness(self, factors: NDArray[np.float64]) -> None:
        self._change(color.brightness, _blending(factors))

    def contrast(self, factors: NDArray[np.float64], rules: Rules) -> None:
        self._change(color.contrast, _blending(factors), constants=(rules,))

    def saturation(self, factors: NDArray[np.float64], rules: Rules) -> None:
        if self.channels == 3:
            self._change(color.saturation, _blending(factors), constants=(rules,))

    def hue(self, shifts: NDArray[np.float64], rules: Rules) -> None:
        if self.channels == 3:
            turns = (shifts * 255).astype(np.int32) if rules == "pillow" else shifts.astype(np.float32)
            self._change(color.hue, turns, constants=(rules,))

    def grayscale(self, channels: int, rules: Rules) -> None:
        assert channels == self.channels or self.mask is None, "another number of channels is for all images"
        self._change(color.grayscale, constants=(channels, rules))
        self.channels = channels

    def sharpness(self, factors: NDArray[np.float64], rules: Rules) -> None:
        if min(self.heights[0], self.widths[0]) > 2:
            self._change(color.sharpness, _blending(factors), constants=(rules,))

    def blur(self, height: int, width: int, sigmas: NDArray[np.float64]) -> None:
        self._change(color.blur, smooth.gaussian(height, sigmas), smooth.gaussian(width, sigmas))

    def posterize(self, bits: NDArray[np.int64]) -> None:
        self._change(color.posterize, (256 - (1 << (8 - bits))).astype(np.uint8))

    def solarize(self, thresholds: NDArray[np.float64]) -> None:
        self._change(color.solarize, np.ceil(thresholds).clip(0, 256).astype(np.int32))

    def autocontrast(self, rules: Rules) -> None:
        self._change(color.autocontrast, constants=(rules,))

    def equalize(self) -> None:
        self._change(color.equalize)

    def invert(self) -> None:
        self._change(color.invert)

    def _change(
        self, function: Callable[..., Tensor], *arrays: NDArray[Any] | None, constants: tuple[Any, ...] = ()
    ) -> None:
        self.pixels()
        self._do(function, *arrays, constants=constants)

    def _do(
        self,
        function: Callable[..., Tensor],
        *arrays: NDArray[Any] | Tensor | None,
        constants: tuple[Any, ...] = (),
        for_all: bool = False,
    ) -> None:
        places = tuple(None if array is None else self._place(array) for array in arrays)
        mask = None if for_all or self.mask is None else self._place(self.mask)
        self._calls.append(Call(function, places, constants, mask))

    def _place(self, array: NDArray[Any] | Tensor) -> int:
        self.arrays.append(array)
        return len(self.arrays) - 1

    def _maps(self) -> tuple[Map | None, Map | None]:
        if self.rows is None and self.columns is None:
            return None, None
        return self._rows(), self._columns()


def _blending(factors: NDArray[np.float64]) -> NDArray[np.float32]:
    """[B, 2]: the share of the image and that of what it is blended with."""
    return np.stack([factors, 1.0 - factors], axis=1).astype(np.float32)


def _nearest(lengths: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Which of ``lengths`` [B] pixels become ``length``: [B, length]. Added up with its rounding, as in Pillow."""
    steps = np.repeat((lengths / length)[:, None], length, axis=1)
    steps[:, 0] *= 0.5
    return np.cumsum(steps, axis=1).astype(np.int64)


def _picked(map_: Map, places: NDArray[np.int64]) -> Map:
    return np.take_along_axis(np.broadcast_to(map_, (len(places), map_.shape[1])), places, axis=1)


def _stepped(start: NDArray[np.float64], step: NDArray[np.float64], length: int) -> Map:
    """The pixel that each step falls on, -1 for none: [B, length]. Step by step, as the roundings add up."""
    steps = np.repeat(step[:, None], length, axis=1)
    steps[:, 0] = start
    places = np.cumsum(steps, axis=1)
    return np.where((places >= 0) & (places < length), places, -1).astype(np.int32)


def _moved(map_: Map, places: Map, where: Mask | None, outside: int) -> Map:
    """The map with its entries taken from ``places``, where ``where`` [B] is true."""
    old = np.broadcast_to(map_, places.shape)
    new = np.where(places < 0, outside, np.take_along_axis(old, places.clip(0), axis=1)).astype(np.int32)
    return new if where is None else np.where(where[:, None], new, old)
