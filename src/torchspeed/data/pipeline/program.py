"""``Program``: a chain of steps, checked to be one that batches can go through, and its constants.

What is the same for every image is computed once, here: the table from levels to values, what fillings and erasures
become by it, the sizes on the way. What is left for a batch is to draw, and to carry the operations out.
"""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.held import as_held
from torchspeed.data.pipeline.images import Fill
from torchspeed.data.pipeline.operation import AsWritten, Erase, Operation, Params, Pointwise, Sizes, Step, Unreadable
from torchspeed.data.random import Keys
from torchspeed.data.sources.source import Holds

DTYPES = (torch.uint8, torch.float32, torch.bfloat16, torch.float16)


@final
class Program:
    """Lowered ``steps`` on images of ``channels`` channels; gives tensors of ``dtype`` (None: the chain's own).

    channels: of what comes out. table: [C, 256], what each level becomes. exact: whether pixels are the same bits as
    those of the user's code.
    Raises ``Unreadable`` with the sentence why a chain cannot be lowered.
    """

    def __init__(self, steps: Sequence[Step], holds: Holds, channels: int, dtype: torch.dtype | None = None) -> None:
        self.steps = tuple(steps)
        for step in steps:
            channels = (isinstance(step, Operation) and step.channels) or channels
        self.channels = channels
        self.pointwise = [step for step in steps if isinstance(step, Pointwise)]
        _check_order(self.steps)
        images = [_all_levels(holds, channels)]
        for step in self.pointwise:
            images.append(step.transform(images[-1]))
        last = images[-1]
        if not isinstance(last, Tensor):
            raise Unreadable(f"gives a {type(last).__name__}, not a tensor, so that it cannot be put into a batch")
        self._input_dtypes = [image.dtype if isinstance(image, Tensor) else torch.uint8 for image in images]
        self.dtype = dtype or last.dtype
        if self.dtype not in DTYPES:
            raise Unreadable(f"gives {self.dtype}")
        self.table = last.reshape(channels, 256).to(self.dtype)
        self._final: dict[Fill, Tensor] = {}
        self.exact = all(step.exact for step in steps if isinstance(step, Operation))

    def draw(self, keys: Keys, heights: Sizes, widths: Sizes) -> tuple[list[Params], tuple[int, int]]:
        """What each sample draws for each step, in the order of the chain, and the size that the images end with."""
        draws = Draws(keys)
        params: list[Params] = []
        for step in self.steps:
            if isinstance(step, Operation):
                params.append(step.draw(draws, heights, widths))
                heights, widths = step.size(heights, widths)
            else:
                params.append((step.draw(draws, heights, widths),) if isinstance(step, Erase) else ())
        if (heights != heights[0]).any() or (widths != widths[0]).any():
            sizes = sorted({(int(h), int(w)) for h, w in zip(heights, widths, strict=True)})
            raise Unreadable(f"images of different sizes come out, {sizes[0]} and {sizes[-1]} for instance")
        return params, (int(heights[0]), int(widths[0]))

    def final_values(self, fill: Fill) -> Tensor:
        """[C] of the output's dtype: what a filling has become at the end of the chain."""
        if fill not in self._final:
            self._final[fill] = self._finally(fill)
        return self._final[fill]

    def _finally(self, fill: Fill) -> Tensor:
        values = fill.over(self.channels)
        if self._input_dtypes[fill.stage] == torch.uint8:  # a level still, as no step before changes those
            return self.table[torch.arange(self.channels), torch.tensor(values).to(torch.int64)]
        image: Any = torch.tensor(values).to(self._input_dtypes[fill.stage]).reshape(self.channels, 1, 1)
        for step in self.pointwise[fill.stage :]:
            image = step.transform(image)
        return torch.as_tensor(image).reshape(self.channels).to(self.dtype)


def one_level(program: Program) -> float:
    """The largest step from one level to the next, in units of the output, and a little for rounding."""
    return 1.01 * program.table.double().diff(dim=1).abs().max().item()


def part(params: Params, chunk: slice) -> Params:
    """The rows of ``chunk``."""
    return tuple(part(each, chunk) if isinstance(each, tuple) else each[chunk] for each in params)


def _all_levels(holds: Holds, channels: int) -> Any:
    """An image such as the first transform is given, 1 × 256 pixels, one of each level, the same in all channels."""
    levels = np.arange(256, dtype=np.uint8)[None, :, None].repeat(channels, axis=2)
    return as_held(levels, holds)


def _check_order(steps: Sequence[Step]) -> None:
    erased: str | None = None
    for step in steps:
        if isinstance(step, AsWritten):
            raise Unreadable(f"{step.label}: {step.why}")
        if isinstance(step, Erase):
            erased = step.label
        elif isinstance(step, Operation) and erased is not None:
            raise Unreadable(f"{step.label} comes after {erased}; move it before")
