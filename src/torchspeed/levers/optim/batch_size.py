"""How many samples the gradient of one optimizer step is a mean of.

Physically: what a step costs once whatever its batch (launching each layer, reading the weights, updating them, the
all-reduce between ranks) is shared out over more samples, and matrices become tall enough to fill the machine;
activations, and so memory, grow in proportion. It wins samples per second until the machine is full: late on a GPU with
small layers, on a few cores often at some dozens of samples. It loses steps: twice the batch is half as many updates
per epoch. Up to a critical size, which the noise of the gradient sets and which grows during
training, a larger batch reaches a loss in as many fewer steps; beyond it the extra samples are wasted. Smaller batches
win where memory is short or their noise helps.

GOAL: it is another training, so ``tune`` never chooses it. Learning rate, warm-up and schedule stay as they are
written and are to be thought about: a rate in proportion to the batch is the rule for SGD, its square root a common
one for Adam. Validation keeps its batch.

Source: McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training", arXiv:1812.06162; Goyal et
al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.1; Shallue et al., "Measuring the Effects of Data
Parallelism on Neural Network Training", arXiv:1811.03600.
"""

from math import log
from typing import final

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Loader, Run

SIZES = tuple(sorted({1 << k for k in range(17)} | {3 << k for k in range(16)}))


def set_batch_size(loader: Loader, batch_size: int) -> None:
    """From its next epoch on, ``loader`` gives ``batch_size`` samples at a time, over all ranks; order stays."""
    loader.batch_size = batch_size


@final
class BatchSize(Lever):
    name = "batch_size"
    pillar = "optim"
    stage = Stage.DATA
    guarantee = Guarantee.GOAL
    moves = frozenset({Bound.OVERHEAD, Bound.COMPUTE, Bound.MEMORY})
    usual_gain = 1.2

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        """Those nearest to twice the job's first."""
        twice = 2 * max(1, facts.batch_size)
        return (AS_WRITTEN, *sorted(SIZES, key=lambda size: (abs(log(size / twice)), size)))

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if option == facts.batch_size:
            raise NotApplicable(f"the job is written with a batch size of {option}")
        most = facts.batch_size * (facts.batches_per_epoch + 1)
        if facts.batches_per_epoch and int(option) >= most:
            raise NotApplicable(f"the data have fewer than {most} samples, so there is no batch of {option}")

    def apply(self, run: Run, option: Option) -> None:
        if int(option) > run.loader.samples:
            raise NotApplicable(f"the data have {run.loader.samples} samples, so there is no batch of {option}")
        set_batch_size(run.loader, int(option))
