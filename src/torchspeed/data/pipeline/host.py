"""``HostImages``: the instructions of ``Images`` carried out in machine code on the host.

The levels are read where they lie (all images of the dataset in one array, or a list of arrays of any sizes) until an
instruction changes pixels; from then on they are in a buffer of their own, small enough to stay in the processor's
cache, since the executor hands over a batch in chunks.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.buffers import Buffers
from torchspeed.data.kernels import color, smooth, tables
from torchspeed.data.kernels.gather import Conversion, gather
from torchspeed.data.kernels.hue import hue
from torchspeed.data.kernels.resample import FILTERS, resample, resample_one
from torchspeed.data.kernels.warp import warp_as_pillow, warp_as_tensor
from torchspeed.data.pipeline.images import BLACK, RULES, Fill, Images, Map, Rules

Levels = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


@final
class HostImages(Images):
    """``levels``: uint8 [N, H, W, C] with ``index`` int64 [B] into it, or B arrays [H, W, C] of any sizes."""

    def __init__(self, levels: Levels, index: NDArray[np.int64] | None = None, scratch: Buffers | None = None) -> None:
        self.scratch = scratch or Buffers()
        self.levels = levels
        self.index = np.arange(len(levels)) if index is None else index
        self.mine = False
        super().__init__(*sizes(levels, len(self.index)), levels[0].shape[2])

    def pixels(self) -> Levels:
        """What instructions may write to: uint8 [B, H, W, C], or B arrays [H, W, C] where sizes differ.

        The owed maps are carried out.
        """
        if self.mine and self.rows is None and self.columns is None:
            return self.levels
        rows, columns = self._rows(), self._columns()
        fills = np.array([fill.over(self.channels) for fill in self.fills or (BLACK,)], np.uint8)
        if (self.heights == self.heights[0]).all() and (self.widths == self.widths[0]).all():
            shape = len(self.index), rows.shape[1], columns.shape[1], self.channels
            changed: Levels = self.scratch.take(shape, np.uint8)
        else:
            sides = zip(self.heights.tolist(), self.widths.tolist(), strict=True)
            changed = [np.empty((height, width, self.channels), np.uint8) for height, width in sides]
        if isinstance(self.levels, np.ndarray):
            assert isinstance(changed, np.ndarray)
            gather(self.levels, self.index, rows, columns, fills, changed)
        else:
            for b, (image, out) in enumerate(zip(self.levels, changed, strict=True)):
                height, width = out.shape[:2]
                gather(image[None], _FIRST, _row(rows, b)[:, :height], _row(columns, b)[:, :width], fills, out[None])
        self._replace(changed)
        return changed

    def convert(self, conversion: Conversion, fills: NDArray[Any], out: NDArray[Any]) -> None:
        """Carry the owed maps out and look every level up: into ``out`` [B, C, H, W].

        ``fills``: [K, C], the bits of the output's dtype, for the fillings in the order of ``self.fills``.
        """
        rows, columns = self._rows(), self._columns()
        if isinstance(self.levels, np.ndarray):
            conversion.run(self.levels, self.index, rows, columns, fills, out)
            return
        for b, image in enumerate(self.levels):
            conversion.run(image[None], _FIRST, _row(rows, b), _row(columns, b), fills, out[b : b + 1])

    def resize(
        self,
        boxes: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        filter: str,
        rules: Rules,
    ) -> None:
        assert self.mask is None, "a resize is for all images, or their sizes would differ"
        code = FILTERS.index(filter)
        if self.rows is not None or self.columns is not None:
            self.pixels()
        one_size = bool((heights == heights[0]).all() and (widths == widths[0]).all())
        if isinstance(self.levels, np.ndarray) and one_size:
            out = self.scratch.take((len(self.index), int(heights[0]), int(widths[0]), self.channels), np.uint8)
            resample(self.levels, self.index, boxes, code, out, rows_first=rules != "pillow")
            self._replace(out)
        else:
            images = [self.levels[i] for i in self.index]
            if one_size:
                out = self.scratch.take((len(self.index), int(heights[0]), int(widths[0]), self.channels), np.uint8)
                outs = list(out)
            else:
                outs = [np.empty((h, w, self.channels), np.uint8) for h, w in zip(heights, widths, strict=True)]
            for image, box, target in zip(images, boxes, outs, strict=True):
                resample_one(image, box, code, target, rows_first=rules != "pillow")
            self._replace(out if one_size else outs)
        self.heights, self.widths = heights, widths

    def warp(self, matrices: NDArray[np.float64], filter: str, fill: Fill | None, rules: Rules) -> None:
        bilinear = filter == "bilinear"
        values = np.array(() if fill is None else fill.over(self.channels))
        for pixels, where, rows in self._changing():
            if rules == "pillow":
                warp_as_pillow(pixels, where, matrices[rows], bilinear, values.clip(0, 255).astype(np.uint8))
            else:
                warp_as_tensor(pixels, where, matrices[rows], bilinear, values.astype(np.float32), rules == "tensor v2")

    def brightness(self, factors: NDArray[np.float64]) -> None:
        for pixels, where, rows in self._changing():
            color.brightness(pixels, where, factors[rows])

    def contrast(self, factors: NDArray[np.float64], rules: Rules) -> None:
        for pixels, where, rows in self._changing():
            color.contrast(pixels, where, factors[rows], RULES.index(rules))

    def saturation(self, factors: NDArray[np.float64], rules: Rules) -> None:
        for pixels, where, rows in self._changing():
            color.saturation(pixels, where, factors[rows], RULES.index(rules))

    def hue(self, shifts: NDArray[np.float64], rules: Rules) -> None:
        for pixels, where, rows in self._changing():
            hue(pixels, where, shifts[rows], RULES.index(rules))

    def grayscale(self, channels: int, rules: Rules) -> None:
        for pixels, where, _ in self._changing():
            color.grayscale(pixels, where, RULES.index(rules))
        if channels != self.channels:
            assert self.mask is None, "another number of channels is for all images"
            levels = self.pixels()
            first = [0] * channels
            if isinstance(levels, np.ndarray):
                self._replace(np.ascontiguousarray(levels[..., first]))
            else:
                self._replace([np.ascontiguousarray(image[..., first]) for image in levels])
            self.channels = channels

    def sharpness(self, factors: NDArray[np.float64], rules: Rules) -> None:
        for pixels, where, rows in self._changing():
            smooth.sharpness(pixels, where, factors[rows], RULES.index(rules))

    def blur(self, height: int, width: int, sigmas: NDArray[np.float64]) -> None:
        for pixels, where, rows in self._changing():
            smooth.blur(pixels, where, smooth.gaussian(height, sigmas[rows]), smooth.gaussian(width, sigmas[rows]))

    def posterize(self, bits: NDArray[np.int64]) -> None:
        masks, never = (256 - (1 << (8 - bits))).astype(np.uint8), np.full(len(bits), 256, np.int16)
        for pixels, where, rows in self._changing():
            tables.mask_and_invert(pixels, where, masks[rows], never[rows])

    def solarize(self, thresholds: NDArray[np.float64]) -> None:
        starts = np.ceil(thresholds).clip(0, 256).astype(np.int16)
        for pixels, where, rows in self._changing():
            tables.mask_and_invert(pixels, where, np.full(len(rows), 255, np.uint8), starts[rows])

    def invert(self) -> None:
        self.solarize(np.zeros(len(self.index)))

    def autocontrast(self, rules: Rules) -> None:
        for pixels, where, _ in self._changing():
            tables.look_up(pixels, where, tables.stretching(tables.counted(pixels, where), RULES.index(rules)))

    def equalize(self) -> None:
        for pixels, where, _ in self._changing():
            tables.look_up(pixels, where, tables.equalizing(tables.counted(pixels, where)))

    def _changing(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]]:
        """(pixels [B, H, W, C], which of them to change, which rows of the parameters are theirs), sizes apart."""
        where = np.arange(len(self.index)) if self.mask is None else np.flatnonzero(self.mask)
        if len(where) == 0:
            return
        pixels = self.pixels()
        if isinstance(pixels, np.ndarray):
            yield pixels, where, where
        else:
            for b in where.tolist():
                yield pixels[b][None], _FIRST, np.array([b])

    def _replace(self, levels: Levels) -> None:
        self.levels, self.mine, self.index = levels, True, np.arange(len(levels))
        self.rows = self.columns = None
        self.fills.clear()


def sizes(levels: Levels, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Heights and widths [B] of ``batch`` images out of ``levels``."""
    if isinstance(levels, np.ndarray):
        return np.full(batch, levels.shape[1]), np.full(batch, levels.shape[2])
    return np.array([image.shape[0] for image in levels]), np.array([image.shape[1] for image in levels])


def _row(map_: Map, b: int) -> Map:
    return map_ if len(map_) == 1 else map_[b : b + 1]


_FIRST = np.zeros(1, np.int64)
