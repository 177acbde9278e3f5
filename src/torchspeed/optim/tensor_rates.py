"""Learning rates as tensors for as long as a step lasts.

A recorded or compiled step has every Python number baked in; a tensor it reads anew. Schedules, logs and checkpoints
go on seeing plain numbers, which are back in their places as soon as the step is over.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.optim import Optimizer


@contextmanager
def tensor_rates(optimizer: Optimizer, rates: list[Tensor]) -> Iterator[None]:
    """Inside, the learning rate of each parameter group of ``optimizer`` is the tensor of ``rates`` at its place."""
    groups = optimizer.param_groups
    written = [group["lr"] for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    try:
        yield
    finally:
        for group, number in zip(groups, written, strict=True):
            group["lr"] = number
