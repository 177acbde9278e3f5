"""Is what was drawn from where it should be? The probabilities of a fit this bad, if it is."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LEAST = 1e-4  # seeds are fixed: a test that passes once passes always


def uniform_p(values: NDArray[Any], low: float, high: float) -> float:
    """Kolmogorov and Smirnov's test (asymptotic) that ``values`` [N] are uniform in [low, high]."""
    count = len(values)
    places = np.sort((values.astype(np.float64) - low) / (high - low))
    distance = max((np.arange(1, count + 1) / count - places).max(), (places - np.arange(count) / count).max())
    terms = [(-1) ** (j - 1) * math.exp(-2 * j * j * count * distance**2) for j in range(1, 101)]
    return min(1.0, 2 * sum(terms))


def frequencies_p(values: NDArray[Any], chances: list[float]) -> float:
    """Pearson's chi-square test that ``values`` [N], 0, 1, …, come with ``chances``."""
    expected = len(values) * np.array(chances)
    counts = np.bincount(values.astype(np.int64), minlength=len(chances))
    assert len(counts) == len(chances)
    statistic = ((counts - expected) ** 2 / expected).sum()
    half_freedom = torch.tensor((len(chances) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


def shuffled_p(orders: NDArray[Any]) -> float:
    """The same, that all permutations are equally frequent. ``orders``: [N, K]."""
    permutations = list(itertools.permutations(range(orders.shape[1])))
    numbers = np.array([permutations.index(tuple(order)) for order in orders.tolist()])
    return frequencies_p(numbers, [1 / len(permutations)] * len(permutations))
