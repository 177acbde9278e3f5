"""How many cores one operation is spread over.

Physically: PyTorch splits an operation over a pool of OpenMP threads and waits for the last one. It wins to use them
all for large operations. It loses for small ones (waking a thread and waiting for it costs 5 to 20 µs), with
hyper-threads, which share one multiplier, and when loader workers want the cores. CLOSE: sums are split differently.

Source: https://docs.pytorch.org/docs/stable/notes/cpu_threading_torchscript_inference.html
"""

from collections.abc import Mapping
from typing import final

import torch

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Option, ProcessLever
from torchspeed.machine import Machine
from torchspeed.run import Run

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def set_threads(threads: int) -> None:
    """Spread operations of this process over ``threads`` cores from now on."""
    torch.set_num_threads(threads)


@final
class Threads(ProcessLever):
    name = "threads"
    pillar = "hardware"
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE, Bound.OVERHEAD})
    usual_gain = 1.2

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, *sorted({*COUNTS, machine.cores}))

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if int(option) > machine.cores:
            raise NotApplicable(f"{option} threads on {machine.cores} cores would take turns")
        if 1 < int(option) == machine.cores == torch.get_num_threads():
            raise NotApplicable(f"{option} threads are what it has already")

    def environ(self, option: Option) -> Mapping[str, str]:
        return {"OMP_NUM_THREADS": str(option), "MKL_NUM_THREADS": str(option)}

    def apply(self, run: Run, option: Option) -> None:
        set_threads(int(option))
