"""The same batch in several pieces, whose gradients add up before the optimizer steps.

Physically: activations of one piece at a time are alive, so memory falls with the number of pieces; when a piece fits
into a cache that the batch does not, it can even be faster. It wins where the batch does not fit, or barely. It loses
where pieces are too small to fill the machine: every layer is launched once per piece. CLOSE: the same sum in another
order; not so with batch normalisation, whose statistics would be those of a piece, so there it does not apply; nor
with class weights or targets that are ignored, unless each piece has its share of them.

Source: Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 3.
"""

from typing import final

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Run

PIECES = (1, 2, 4, 8, 16, 32)


def accumulate(run: Run, pieces: int) -> None:
    """From the next step on, ``run`` cuts each batch into ``pieces``."""
    run.micro_batches = pieces


@final
class GradientAccumulation(Lever):
    name = "gradient_accumulation"
    pillar = "parallel"
    stage = Stage.STEP
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.MEMORY})
    usual_gain = 1.03

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, *PIECES)

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if facts.has_batch_norm and option != 1:
            raise NotApplicable("batch normalisation would take its statistics from a piece instead of the batch")
        if facts.loss_reduction == "sum" and option != 1:
            raise NotApplicable('the loss has reduction="sum"; pieces are weighted as means')
        if facts.loss_has_class_weights and option != 1:
            raise NotApplicable("the loss weights its classes, so a mean over pieces is not the mean over the batch")
        if facts.batch_size < int(option):
            raise NotApplicable(f"a batch of {facts.batch_size} cannot be cut into {option} pieces")

    def apply(self, run: Run, option: Option) -> None:
        accumulate(run, int(option))
