"""What a user's chain of transforms is read into: steps, each with what it draws and what it does to a batch.

A transform is code for one image. A step is the same code taken apart, so that a batch can go through it at once:
what it draws for each sample (from ``Draws``, in the order in which the transform draws), and what it then does to
the images, in the instructions of ``Images``, which the host and a device carry out each in its own way.

``Operation``: levels to levels (uint8): crop, flip, resize, colour.
``Pointwise``: each value becomes another, in the same way in all images: ToTensor, Normalize. The user's own transform
is run once, on an image of the 256 values that a level can have, and what it gives is a table.
``Erase``: a box of each converted image is set to a value.
``AsWritten``: not known here, or not lowered; the user's own code runs, per sample.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images
from torchspeed.data.sources.source import Holds

Sizes = NDArray[np.int64]  # [B], pixels
Params = tuple[Any, ...]  # arrays [B, …], or tuples of such


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One entry of the chain.

    transform: the user's own object, called where the step is not lowered.
    label: as it is shown, such as "RandomCrop(32, padding=4)".
    """

    transform: Callable[[Any], Any]
    label: str


@dataclass(frozen=True, kw_only=True)
class Operation(Step):
    """Levels to levels.

    random: whether it draws. exact: the same bits as the user's transform, otherwise within one level of 255.
    moves: whether it only moves pixels (crop, pad, flip), which is left to whatever comes next. channels: how many it
    leaves; None: as many as it is given.
    """

    random: bool
    exact: bool = True
    moves: bool = False
    channels: int | None = None

    @abstractmethod
    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        """Heights and widths [B] of the images afterwards. ``Unreadable`` if the images are too small."""

    @abstractmethod
    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        """What each sample draws, given the sizes before: arrays with a row per sample; () when nothing is drawn."""

    @abstractmethod
    def apply(self, images: Images, params: Params) -> None:
        """Act on the images, or on those that ``images.only`` leaves; ``params`` has a row for every image."""


@dataclass(frozen=True, kw_only=True)
class Pointwise(Step):
    """Each value becomes another by itself. gives: what the next step is given."""

    gives: Holds


@dataclass(frozen=True, kw_only=True)
class Erase(Step):
    """Boxes of the converted image: ``draw`` gives int64 [B, 4] (top, left, height, width; 0 × 0 for none).

    value: one per channel, or one for all. stage: how many pointwise steps come before.
    """

    value: tuple[float, ...]
    stage: int

    @abstractmethod
    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> NDArray[np.int64]: ...


@dataclass(frozen=True, kw_only=True)
class AsWritten(Step):
    """``why``: the sentence that says why it is not lowered."""

    why: str


class Unreadable(Exception):
    """A transform, or the way it is configured, that cannot be lowered, with the sentence why."""
