"""``DeviceRenderer``: runs a program on images in a device's memory.

The host draws, composes the maps and sends both; everything else is the device's, and nothing is waited for. Played by
itself, a tape is a few dozen kernels that each go through memory once. A tape that comes again is compiled
(``torch.compile``), which leaves a handful of passes. What was compiled is compared once, on its first batch, with what
the tape gives by itself: it must be the same, or within a level where that is what the program promises.
"""

from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.kernels.gather import bits
from torchspeed.data.pipeline.device import DeviceImages, Tape, play
from torchspeed.data.pipeline.images import Fill
from torchspeed.data.pipeline.operation import Erase, Operation
from torchspeed.data.pipeline.parcel import send
from torchspeed.data.pipeline.program import Program, one_level
from torchspeed.data.random import Keys

_COMPILED = 2  # tapes and batch sizes of one loader that are worth half a minute each; others are played

# The rounding of every operation by itself, as where they are not fused.
_AS_PLAYED: dict[str, Any] = {"emulate_precision_casts": True, "eager_numerics.division_rounding": True}


@final
class DeviceRenderer:
    """channels_last: how images lie in memory. compiles: whether tapes are compiled. report: is told, once, the
    sentence why they could not be."""

    def __init__(
        self,
        program: Program,
        channels_last: bool,
        device: torch.device,
        compiles: bool = False,
        report: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.program, self.channels_last, self.device, self.compiles = program, channels_last, device, compiles
        self.report = report
        self.table = program.table.to(device)
        self._seen: set[tuple[Tape, int]] = set()
        self._compiled: dict[tuple[Tape, int], _Compiled] = {}

    def images(self, levels: Tensor, rows: NDArray[np.int64], keys: Keys) -> Tensor:
        """[B, C, H, W] on the device. ``levels``: uint8 [N, H, W, C] on the device; ``rows``: int64 [B], of them."""
        images = self._recorded(levels, rows, keys)
        with torch.no_grad():
            values = self._run(images.tape, levels, send(images.arrays, self.device))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return values.contiguous(memory_format=layout)

    def _recorded(self, levels: Tensor, rows: NDArray[np.int64], keys: Keys) -> DeviceImages:
        program, (height, width, channels) = self.program, levels.shape[1:]
        images = DeviceImages(height, width, channels, rows)
        params, _ = program.draw(keys, images.heights, images.widths)
        for step, drawn in zip(program.steps, params, strict=True):
            if isinstance(step, Operation):
                step.apply(images, drawn)
        fills = [program.final_values(fill) for fill in images.fills]
        images.convert(bits(torch.stack(fills)) if fills else None, self.table, self.channels_last)
        for step, drawn in zip(program.steps, params, strict=True):
            if isinstance(step, Erase):
                images.erase(drawn[0], bits(program.final_values(Fill(step.value, step.stage))))
        return images

    def _run(self, tape: Tape, levels: Tensor, arrays: list[Tensor]) -> Tensor:
        key = tape, len(arrays[0])
        compiled = self._compiled.get(key)
        if compiled is not None:
            return compiled(levels, arrays)
        if self.compiles and key in self._seen and len(self._compiled) < _COMPILED:
            return self._compile(key, levels, arrays)
        self._seen.add(key)
        return play(tape, levels, arrays)

    def _compile(self, key: tuple[Tape, int], levels: Tensor, arrays: list[Tensor]) -> Tensor:
        played = play(key[0], levels, arrays)
        compiled = _Compiled(key[0])
        try:
            values = compiled(levels, arrays)
            differs = (values.double() - played.double()).abs().max().item()
            if not differs <= (0.0 if self.program.exact else one_level(self.program)):
                raise ValueError(f"differs by {differs:.3g} from what is not compiled")
            self._compiled[key] = compiled
        except Exception as error:  # a compiler has many ways to fail, and none of them is a reason to stop
            self.compiles = False
            self.report(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return played


@final
class _Compiled:
    """A tape as one function, of images and a batch of one size."""

    def __init__(self, tape: Tape) -> None:
        def render(levels: Tensor, arrays: list[Tensor]) -> Tensor:
            return play(tape, levels, arrays)

        self._render = torch.compile(render, fullgraph=True, dynamic=False, options=_AS_PLAYED)

    def __call__(self, levels: Tensor, arrays: list[Tensor]) -> Tensor:
        return self._render(levels, arrays)
