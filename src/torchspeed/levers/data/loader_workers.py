"""Workers that load ahead while the training process computes.

Physically: N workers make batches while the step runs. Where the dataset's work is machine code that holds no
interpreter lock (a compiled pipeline), they are threads, and a batch is handed over by its address. Otherwise they are
processes that run the dataset's ``__getitem__`` and the collation, and hand finished batches over through shared
memory. It wins when a sample costs more to make (decoding, augmentation) than to hand over, and there are cores to
spare. It loses when samples are cheap (a process takes 0.2 to 1 ms to hand a batch over, so a small step gets slower),
and when the workers take cores from the step: on 2 cores often. EXACT, because order and randomness come from (seed,
epoch, index) and not from the worker.

Source: https://docs.pytorch.org/docs/stable/data.html, "Single- and Multi-process Data Loading".
"""

from typing import final

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Loader, Run

COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def set_loader_workers(loader: Loader, workers: int) -> None:
    """From its next epoch on, ``loader`` loads in ``workers`` threads or processes (0: in place)."""
    loader.workers = workers


@final
class LoaderWorkers(Lever):
    name = "loader_workers"
    pillar = "data"
    stage = Stage.DATA
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.DATA})
    usual_gain = 1.5

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, *COUNTS)

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if not machine.system.startswith("Linux") and option != 0:
            raise NotApplicable(f"worker processes are forked, which only Linux does well; this is {machine.system}")
        if int(option) > max(4, 2 * machine.cores):
            raise NotApplicable(f"{option} workers on {machine.cores} cores would take turns")

    def apply(self, run: Run, option: Option) -> None:
        for loader in (run.loader, run.valid):
            if loader is not None:
                set_loader_workers(loader, int(option))
