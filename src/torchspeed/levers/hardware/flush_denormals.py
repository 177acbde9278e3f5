"""Numbers below 1.2e-38 (denormals of fp32) become zero instead of being computed with.

Physically: a denormal has no leading one, so many processors leave it to microcode, at some 150 cycles per
instruction instead of 4. A bit of each thread's control register makes them zero instead. It wins where weights,
activations or an optimizer's averages decay towards zero and the processor traps (Intel cores: 5 to 100 times slower
on such arrays). It loses nothing but the smallest numbers where it does not: an AMD EPYC with AVX-512 multiplies a
million denormals in the time of a million others (0.11 ms against 0.11 ms), so there is nothing to gain either. CLOSE:
what is below 1.2e-38 is lost.

The bit belongs to a thread, and a new thread has that of its maker. OpenMP's pool keeps its threads, so those that
are there already would go on as before (measured: half of an array was flushed); the pool is therefore given back,
and the next operation makes another.

Source: Dooley and Kale, "Quantifying the Interference Caused by Subnormal Floating-Point Values", OSIHPA 2006;
https://docs.pytorch.org/docs/stable/generated/torch.set_flush_denormal.html; OpenMP API 5.0, omp_pause_resource_all
"""

import ctypes
from typing import final

import torch

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Run

_PAUSE_HARD = 2
_PER_THREAD = 1 << 16  # twice the least share of an elementwise operation that PyTorch gives a thread


def flush_denormals(on: bool = True) -> bool:
    """Make denormals zero (or no longer) in this thread and those of its OpenMP pool; False where that cannot be."""
    if not torch.set_flush_denormal(on):
        return False
    end_pool = getattr(ctypes.CDLL(torch._C.__file__), "omp_pause_resource_all", None)
    if end_pool is not None:
        end_pool(_PAUSE_HARD)
    return flushes_denormals() == on


def flushes_denormals() -> bool:
    """Whether every thread of an operation makes denormals zero: seen by multiplying until there is one."""
    small = torch.full((_PER_THREAD * torch.get_num_threads(),), 1e-20)
    return not bool((small * 1e-20 * 1e20).any())


@final
class FlushDenormals(Lever):
    name = "flush_denormals"
    pillar = "hardware"
    stage = Stage.PROCESS
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE})
    usual_gain = 1.01

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "on")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if machine.device != "cpu":
            raise NotApplicable(f"{machine.device_name} computes with denormals at full speed")

    def apply(self, run: Run, option: Option) -> None:
        if not flush_denormals():
            raise NotApplicable("this processor, or its OpenMP runtime, does not flush denormals in every thread")
