"""Draws of a batch are those of PyTorch's and Python's generators, sample by sample."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.random import sample_keys

SAMPLES = 100


@pytest.fixture
def keys() -> Any:
    keys = sample_keys(3, 1, np.arange(SAMPLES))
    keys[:2] = 0, 5  # seeds of one 32-bit digit, which Python takes another way
    return keys


def real(keys: Any, draw: Callable[[], Any]) -> list[Any]:
    """What ``draw`` gives for each sample after the generators are seeded with its key."""
    results = []
    for key in keys.tolist():
        random.seed(key)
        torch.default_generator.manual_seed(key)
        results.append(draw())
    return results


WEIGHTS = torch.tensor([0.2, 0.5, 0.3])


def shuffled(n: int) -> list[int]:
    numbers = list(range(n))
    random.shuffle(numbers)
    return numbers


CASES: dict[str, tuple[Callable[[Draws], Any], Callable[[], Any]]] = {
    "rand": (lambda d: d.rand(), lambda: torch.rand(1).item()),
    "uniform": (lambda d: d.uniform(-0.29, 0.73), lambda: torch.empty(1).uniform_(-0.29, 0.73).item()),
    "uniform, bounds of each sample": (
        lambda d: d.uniform(np.full(SAMPLES, -3.3), np.full(SAMPLES, 7.1)),
        lambda: torch.empty(1).uniform_(-3.3, 7.1).item(),
    ),
    "randint": (lambda d: d.randint(-3, 9), lambda: torch.randint(-3, 9, (1,)).item()),
    "randint of shape ()": (lambda d: d.randint(0, 9), lambda: int(torch.randint(0, 9, size=()))),
    "randperm": (lambda d: d.randperm(4), lambda: torch.randperm(4).tolist()),
    "multinomial": (lambda d: d.multinomial([0.2, 0.5, 0.3]), lambda: int(torch.multinomial(WEIGHTS, 1))),
    "random.random": (lambda d: d.python_random(), random.random),
    "random.choices": (lambda d: d.python_choice(5), lambda: random.choices(range(5))[0]),
    "weighted random.choices": (
        lambda d: d.python_choice(4, [0.1, 3, 0, 2]),
        lambda: random.choices(range(4), [0.1, 3, 0, 2])[0],
    ),
    "random.shuffle": (lambda d: d.python_shuffle(5), lambda: shuffled(5)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_draw_is_the_generators_own(name: str, keys: Any) -> None:
    batched, single = CASES[name]
    draws = Draws(keys)
    ours = [batched(draws).tolist() for _ in range(3)]
    theirs = real(keys, lambda: [single() for _ in range(3)])
    assert [list(sample) for sample in zip(*ours, strict=True)] == theirs


def test_hundreds_of_draws_go_on_as_the_generator_does(keys: Any) -> None:
    draws = Draws(keys)
    ours = np.stack([draws.randint(0, 1 << 20) for _ in range(600)], axis=1)
    assert ours.tolist() == real(keys, lambda: torch.randint(0, 1 << 20, (600,)).tolist())


def test_samples_that_are_left_out_draw_nothing(keys: Any) -> None:
    drawn = np.arange(SAMPLES) % 3 == 0
    also = np.arange(SAMPLES) % 2 == 0
    draws = Draws(keys)
    draws.rand()
    draws.only(drawn).only(also).rand()
    ours = draws.rand()
    theirs = real(keys, lambda: torch.rand(3).tolist())
    assert ours.tolist() == [row[2 if i % 6 == 0 else 1] for i, row in enumerate(theirs)]


def test_the_upper_bound_of_a_draw_may_differ_by_sample(keys: Any) -> None:
    bounds = np.arange(1, SAMPLES + 1)
    ours = Draws(keys).randint(0, bounds)
    counter = iter(bounds.tolist())
    assert ours.tolist() == real(keys, lambda: torch.randint(0, next(counter), (1,)).item())
