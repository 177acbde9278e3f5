"""The maximum first, then the activation: on a quarter of the numbers for a 2×2 pool.

Physically: an activation that never falls takes the largest input to the largest output, so the two may change places,
and the activation then reads, writes and keeps for backward k² times less. It wins wherever a max pool follows a ReLU
directly, most where channels are few and pictures large. It never loses but by the few microseconds of a longer
Python loop. EXACT for ReLU, ReLU6 and Hardtanh, gradients included: where these are flat their gradient is zero, so it
does not matter which of several equal inputs the pool picks. Leaky ReLU, ELU, sigmoid and tanh stay where they are:
rounding makes equal outputs of different inputs, and the gradient would go to another one of them.

Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, whose network pools first.
"""

from typing import final

from torch import nn

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.models.pool_first import pool_first
from torchspeed.run import Run


def pool_before_activation(model: nn.Module) -> int:
    """Exchange them wherever ``model`` calls one right after the other, in place; how many pairs that were."""
    return pool_first(model)


@final
class PoolBeforeActivation(Lever):
    name = "pool_before_activation"
    pillar = "model"
    stage = Stage.MODEL
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY})
    usual_gain = 1.14

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "on")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        """Pools may be called as functions: whether there is one is seen when it is applied."""

    def apply(self, run: Run, option: Option) -> None:
        if not pool_before_activation(run.model):
            raise NotApplicable("no max pool directly after ReLU, ReLU6 or Hardtanh is seen in the model's source")
