"""``HostImages``: the instructions of ``Images`` carried out in machine code on the host.

The levels are read where they lie (all images of the dataset in one array, or a list of arrays of any sizes) until an
instruction changes pixels; from then on they are in a buffer of their own, small enough to stay in the processor's
cache, since the executor hands over a batch in chunks.
"""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.buffers import Buffers
from torchspeed.data.kernels.gather import Conversion, gather
from torchspeed.data.kernels.resample import resample, resample_one
from torchspeed.data.pipeline.images import FILTERS, Fill, Images, Map

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

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [B, H, W, C] that instructions may write to: the owed maps are carried out."""
        if self.mine and self.rows is None and self.columns is None:
            assert isinstance(self.levels, np.ndarray)
            return self.levels
        rows, columns = self._rows(), self._columns()
        fills = np.array([self._channels(fill) for fill in self.fills] or [[0] * self.channels], np.uint8)
        out = self.scratch.take((len(self.index), rows.shape[1], columns.shape[1], self.channels), np.uint8)
        if isinstance(self.levels, np.ndarray):
            gather(self.levels, self.index, rows, columns, fills, out)
        else:
            for b, image in enumerate(self.levels):
                gather(image[None], _FIRST, _row(rows, b), _row(columns, b), fills, out[b : b + 1])
        self._replace(out)
        return out

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

    def positions(self) -> NDArray[np.int64]:
        """Which images an instruction is to act on."""
        return np.arange(len(self.index)) if self.mask is None else np.flatnonzero(self.mask)

    def resize(
        self, boxes: NDArray[np.int64], heights: NDArray[np.int64], widths: NDArray[np.int64], filter: str
    ) -> None:
        assert self.mask is None, "a resize is for all images, or their sizes would differ"
        code = FILTERS.index(filter)
        if self.rows is not None or self.columns is not None:
            self.pixels()
        one_size = bool((heights == heights[0]).all() and (widths == widths[0]).all())
        if isinstance(self.levels, np.ndarray) and one_size:
            out = self.scratch.take((len(self.index), int(heights[0]), int(widths[0]), self.channels), np.uint8)
            resample(self.levels, self.index, boxes, code, out)
            self._replace(out)
        else:
            images = [self.levels[i] for i in self.index]
            if one_size:
                out = self.scratch.take((len(self.index), int(heights[0]), int(widths[0]), self.channels), np.uint8)
                outs = list(out)
            else:
                outs = [np.empty((h, w, self.channels), np.uint8) for h, w in zip(heights, widths, strict=True)]
            for image, box, target in zip(images, boxes, outs, strict=True):
                resample_one(image, box, code, target)
            self._replace(out if one_size else outs)
        self.heights, self.widths = heights, widths

    def _replace(self, levels: Levels) -> None:
        self.levels, self.mine, self.index = levels, True, np.arange(len(levels))
        self.rows = self.columns = None
        self.fills.clear()

    def _channels(self, fill: Fill) -> tuple[float, ...]:
        return fill.values * self.channels if len(fill.values) == 1 else fill.values


def sizes(levels: Levels, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Heights and widths [B] of ``batch`` images out of ``levels``."""
    if isinstance(levels, np.ndarray):
        return np.full(batch, levels.shape[1]), np.full(batch, levels.shape[2])
    return np.array([image.shape[0] for image in levels]), np.array([image.shape[1] for image in levels])


def _row(map_: Map, b: int) -> Map:
    return map_ if len(map_) == 1 else map_[b : b + 1]


_FIRST = np.zeros(1, np.int64)
