"""How many batches each loader worker is ahead of the step.

Physically: a queue between those who make batches and the step that consumes them. It wins where the time to make a
batch varies (photographs of all sizes, a disk that pauses): a deep queue rides over what a shallow one waits for. It
loses memory, a batch for each place in the queue, and the cache: a batch that was written long ago has left it. Where
making a batch always takes longer than a step, no queue helps. It does nothing without loader workers. EXACT: the order
is fixed beforehand.

Source: https://docs.pytorch.org/docs/stable/data.html, ``prefetch_factor``.
"""

from typing import final

from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Loader, Run

DEPTHS = (1, 2, 4, 8)


def set_prefetch(loader: Loader, batches: int) -> None:
    """From its next epoch on, each worker of ``loader`` is up to ``batches`` ahead."""
    loader.prefetch = batches


@final
class Prefetch(Lever):
    name = "prefetch"
    pillar = "data"
    stage = Stage.DATA
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.DATA})
    usual_gain = 1.06

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, *DEPTHS)

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        """Nothing stands against it anywhere."""

    def apply(self, run: Run, option: Option) -> None:
        set_prefetch(run.loader, int(option))
