"""Parameters that are drawn have the distributions that the transforms promise.

They are the values that PyTorch's own generator gives (``test_draws``), but each sample has a generator of its own
that is asked for its first numbers alone: so it is the first numbers, over many seeds, that must be evenly spread.
p > 1e-4, seeds fixed. The control is a sample of the wrong distribution, which must be told.
"""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.random import sample_keys
from torchspeed.data.transforms.chain import read_chain
from vision import v1

SAMPLES = 40_000
LEAST = 1e-4


def drawn(transform: object, seed: int = 0, height: int = 40, width: int = 50) -> tuple[NDArray[np.float64], ...]:
    """What ``SAMPLES`` samples of one epoch draw for ``transform``."""
    keys = sample_keys(seed, 0, np.arange(SAMPLES))
    step = read_chain(transform, "pil", 3)[0]
    sizes = np.full(SAMPLES, height), np.full(SAMPLES, width)
    return step.draw(Draws(keys), *sizes)  # type: ignore[attr-defined, no-any-return]


def evenly(values: NDArray[np.float64], count: int) -> float:
    """p of a chi-square test that the integers 0 … count - 1 are equally frequent."""
    return float(stats.chisquare(np.bincount(values.astype(np.int64), minlength=count)).pvalue)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_places_of_a_crop(seed: int) -> None:
    top, left = drawn(v1.RandomCrop(32, padding=4), seed)
    assert evenly(top, 17) > LEAST
    assert evenly(left, 27) > LEAST
    assert evenly(top * 27 + left, 17 * 27) > LEAST  # and independently


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_coins(p: float) -> None:
    (where,) = drawn(v1.RandomHorizontalFlip(p))
    assert stats.binomtest(int(where.sum()), SAMPLES, p).pvalue > LEAST


def test_area_and_aspect_of_a_resized_crop() -> None:
    (boxes,) = drawn(v1.RandomResizedCrop(24, scale=(0.1, 0.4)), height=2000, width=2000)
    height, width = boxes[:, 2], boxes[:, 3]
    area, aspect = height * width / 2000**2, width / height
    # A box that does not fit is drawn again; at these scales all fit, so both are as they are drawn.
    assert stats.kstest(area, stats.uniform(0.1, 0.3).cdf).pvalue > LEAST
    log_ratio = math.log(4 / 3)
    assert stats.kstest(np.log(aspect), stats.uniform(-log_ratio, 2 * log_ratio).cdf).pvalue > LEAST


def test_consecutive_epochs_and_neighbours_are_independent() -> None:
    flips = [Draws(sample_keys(0, epoch, np.arange(SAMPLES))).rand() < 0.5 for epoch in (0, 1)]
    for one, other in ((flips[0], flips[1]), (flips[0][:-1], flips[0][1:])):
        table = np.array([[np.sum(one & other), np.sum(one & ~other)], [np.sum(~one & other), np.sum(~one & ~other)]])
        assert stats.chi2_contingency(table).pvalue > LEAST


def test_factors_of_colour_are_uniform() -> None:
    jitter = v1.ColorJitter(brightness=0.4)
    params = [each for each in drawn(jitter) if isinstance(each, np.ndarray) and each.dtype.kind == "f"]
    assert stats.kstest(params[0][:, 0], stats.uniform(0.6, 0.8).cdf).pvalue > LEAST


def test_a_wrong_distribution_is_told() -> None:
    top, _ = drawn(v1.RandomCrop(32, padding=4))
    assert evenly(np.minimum(top, 15), 17) < LEAST
    assert evenly(np.where(np.arange(SAMPLES) % 50 == 0, 0, top), 17) < LEAST
