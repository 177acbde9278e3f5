"""``Renderer``: runs a program on the host, a chunk of a batch at a time."""

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.buffers import Buffers
from torchspeed.data.kernels.erase import erase
from torchspeed.data.kernels.gather import bits, conversion
from torchspeed.data.pipeline.host import HostImages, sizes
from torchspeed.data.pipeline.images import BLACK, Fill
from torchspeed.data.pipeline.operation import Erase, Operation, Params, Unreadable
from torchspeed.data.pipeline.program import Program, part
from torchspeed.data.pipeline.stores import Levels
from torchspeed.data.random import Keys
from torchspeed.errors import DataError

_CHUNK_BYTES = 1 << 20  # levels on their way stay in the cache of a core


@final
class Renderer:
    """channels_last: how images lie in memory. pinned: in page-locked memory, for a CUDA device."""

    def __init__(self, program: Program, channels_last: bool, pinned: bool) -> None:
        self.program, self.channels_last = program, channels_last
        self.buffers, self.scratch = Buffers(pinned), Buffers()
        self.conversion = conversion(program.table)
        self.in_one_pass = all(step.moves for step in program.steps if isinstance(step, Operation))
        self._fills: dict[tuple[Fill, ...], NDArray[Any]] = {}

    def images(self, levels: Levels, rows: NDArray[np.int64] | None, keys: Keys) -> Tensor:
        """[B, C, H, W]. ``levels``, ``rows``: as a store gives them. Raises DataError for sizes that do not fit."""
        heights, widths = sizes(levels, len(keys))
        try:
            params, size = self.program.draw(keys, heights, widths)
        except Unreadable as reason:
            return self._by_size(levels, keys, heights, widths, reason)
        return self.render(levels, rows, params, size)

    def _by_size(
        self,
        levels: Levels,
        keys: Keys,
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        reason: Unreadable,
    ) -> Tensor:
        """For steps that need images of one size (a padding): those of equal size together."""
        kinds, kind = np.unique(np.stack([heights, widths]), axis=1, return_inverse=True)
        if kinds.shape[1] == 1:
            raise DataError(str(reason)) from reason
        groups = [np.flatnonzero(kind.ravel() == number) for number in range(kinds.shape[1])]
        parts = [self.images([levels[i] for i in group.tolist()], None, keys[group]) for group in groups]
        if len({tuple(part.shape[1:]) for part in parts}) > 1:
            shapes = sorted({tuple(part.shape[1:]) for part in parts})
            raise DataError(
                f"images of different sizes come out, {shapes[0]} and {shapes[-1]} for instance"
            ) from reason
        order = np.argsort(np.concatenate(groups))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return torch.cat(parts).index_select(0, torch.from_numpy(order)).contiguous(memory_format=layout)

    def render(
        self, levels: Levels, rows: NDArray[np.int64] | None, params: list[Params], size: tuple[int, int]
    ) -> Tensor:
        """The same, of what was drawn already: ``params`` and ``size`` as the program's ``draw`` gives them."""
        program, (height, width) = self.program, size
        batch = len(levels if rows is None else rows)
        shape = (batch, height, width, program.channels)
        if not self.channels_last:
            shape = (batch, program.channels, height, width)
        out = self.buffers.take(shape, self.conversion.table.dtype)
        chunk_size = batch if self.in_one_pass else max(1, _CHUNK_BYTES // (height * width * program.channels))
        for start in range(0, batch, chunk_size):
            chunk = slice(start, min(batch, start + chunk_size))
            if isinstance(levels, np.ndarray):
                images = HostImages(levels, np.arange(batch)[chunk] if rows is None else rows[chunk], self.scratch)
            else:
                images = HostImages(levels[chunk], None, self.scratch)
            values = out[chunk].transpose(0, 3, 1, 2) if self.channels_last else out[chunk]
            self._run(images, params, chunk, values)
        tensor = torch.from_numpy(out).view(program.dtype)
        return tensor.permute(0, 3, 1, 2) if self.channels_last else tensor

    def _run(self, images: HostImages, params: list[Params], chunk: slice, out: NDArray[Any]) -> None:
        program = self.program
        for step, drawn in zip(program.steps, params, strict=True):
            if isinstance(step, Operation):
                step.apply(images, part(drawn, chunk))
        images.convert(self.conversion, self._bits_of(tuple(images.fills) or (BLACK,)), out)
        for step, drawn in zip(program.steps, params, strict=True):
            if isinstance(step, Erase):
                value = self._bits_of((Fill(step.value, step.stage),))[0]
                erase(out.transpose(0, 2, 3, 1), drawn[0][chunk], value)

    def _bits_of(self, fills: tuple[Fill, ...]) -> NDArray[Any]:
        """[K, C]: what fillings have become at the end of the chain."""
        if fills not in self._fills:
            self._fills[fills] = bits(torch.stack([self.program.final_values(fill) for fill in fills]))
        return self._fills[fills]
