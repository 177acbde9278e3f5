"""A transform as its user runs it, and the steps that it is read into, on the same images and with the same draws."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.fetch import generators_kept, seed_generators
from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.held import as_held, levels_of
from torchspeed.data.pipeline.host import HostImages
from torchspeed.data.pipeline.operation import AsWritten, Operation, Params
from torchspeed.data.random import Keys, sample_keys
from torchspeed.data.sources.source import Holds
from torchspeed.data.transforms.chain import read_chain
from vision import pictures

Levels = NDArray[np.uint8] | list[NDArray[np.uint8]]


def varied(height: int = 32, width: int = 40, channels: int = 3) -> NDArray[np.uint8]:
    """24 images: smooth and noisy ones, and what sits on the edges of formulas: constant, grey, black and white."""
    images = pictures(24, height, width, channels)
    images[0], images[1], images[2] = 0, 255, 77
    images[3] = images[3][:, :, :1]
    images[4] = np.where(images[4] > 127, 255, 0)
    images[5, :, :, 0] = np.arange(width)
    return images


@dataclass(frozen=True)
class Replay:
    """ours, theirs: what becomes of each image. exact: whether the steps claim to be the same bits."""

    ours: list[NDArray[np.uint8]]
    theirs: list[NDArray[np.uint8]]
    exact: bool

    @property
    def differences(self) -> NDArray[np.int64]:
        """By how many levels, for all pixels of all images."""
        pairs = zip(self.ours, self.theirs, strict=True)
        assert [a.shape for a in self.ours] == [b.shape for b in self.theirs]
        return np.concatenate([np.abs(a.astype(np.int64) - b).ravel() for a, b in pairs])


def replay(transform: Any, holds: Holds, images: Levels, epoch: int = 0) -> Replay:
    keys = sample_keys(11, epoch, np.arange(len(images)))
    steps = operations(transform, holds, images[0].shape[2])
    host, draws = HostImages(images), Draws(keys)
    drawn: list[Params] = []
    heights, widths = host.heights, host.widths
    for step in steps:
        drawn.append(step.draw(draws, heights, widths))
        heights, widths = step.size(heights, widths)
    for step, params in zip(steps, drawn, strict=True):
        step.apply(host, params)
    theirs = []
    with generators_kept():
        for image, key in zip(images, keys.tolist(), strict=True):
            seed_generators(key)
            theirs.append(levels_of(transform(as_held(image, holds))))
    return Replay(list(host.pixels()), theirs, all(step.exact for step in steps))


def drawn(transform: Any, samples: int = 20_000, height: int = 32, width: int = 40) -> Params:
    """What the step of ``transform``, given PIL images, draws for many samples."""
    (step,) = operations(transform, "pil", 3)
    return step.draw(Draws(many_keys(samples)), np.full(samples, height), np.full(samples, width))


def many_keys(samples: int) -> Keys:
    return sample_keys(5, 2, np.arange(samples))


def operations(transform: Any, holds: Holds, channels: int) -> list[Operation]:
    steps = []
    for step in read_chain(transform, holds, channels):
        assert isinstance(step, Operation), step.why if isinstance(step, AsWritten) else step.label
        steps.append(step)
    return steps


def why_as_written(transform: Any, holds: Holds = "pil", channels: int = 3) -> str:
    """The sentence why ``transform`` is not lowered."""
    (step,) = read_chain(transform, holds, channels)
    assert isinstance(step, AsWritten), f"{step.label} is lowered"
    return step.why
