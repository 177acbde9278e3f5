"""A problem small enough to solve by hand: a quadratic bowl per tensor, other curvature in each coordinate."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

SHAPES: list[tuple[int, ...]] = [(), (7,), (5, 3), (3, 5), (4, 3, 2, 2)]


class Bowl(nn.Module):
    """Loss ``½ Σ c (θ - target)²`` over tensors of several shapes, so the gradient is ``c (θ - target)``."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.curvatures = [rng.uniform(0.2, 1.0, shape) for shape in SHAPES]
        self.targets = [rng.standard_normal(shape) for shape in SHAPES]
        self.starts = [rng.standard_normal(shape) for shape in SHAPES]
        self.weights = nn.ParameterList([torch.tensor(s, dtype=dtype) for s in self.starts])

    def gradient(self, i: int, theta: np.ndarray) -> np.ndarray:
        return self.curvatures[i] * (theta - self.targets[i])

    def descend(self, optimizer: torch.optim.Optimizer, steps: int, schedule: object = None) -> list[Tensor]:
        """Train for ``steps`` and return copies of the weights."""
        for _ in range(steps):
            for i, weight in enumerate(self.weights):
                weight.grad = torch.as_tensor(self.curvatures[i]).to(weight.dtype) * (
                    weight.detach() - torch.as_tensor(self.targets[i]).to(weight.dtype)
                )
            optimizer.step()
            if schedule is not None:
                schedule.step()
        return [weight.detach().clone() for weight in self.weights]


@pytest.fixture
def make_bowl() -> Callable[..., Bowl]:
    return Bowl


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
