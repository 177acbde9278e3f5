"""What a thread does while it waits for the others of its pool: spin, or sleep.

Physically: at the end of each parallel operation every OpenMP thread waits for the last. GNU's runtime spins, in
the hope that it will not be long; that is quickest while each thread has a core to itself. It wins to sleep
("passive") where other processes want the cores too (loader workers, a second job, a shared machine): a spinning
thread then keeps the very core that the awaited thread needs. Seen on 2 busy cores: small steps 25 times faster.
It loses some microseconds per operation on a quiet machine, to wake the sleepers. EXACT: the same sums in
the same order.

Source: OpenMP API 5.2, section 21.1.9 (OMP_WAIT_POLICY); https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
"""

from collections.abc import Mapping
from typing import final

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Option, ProcessLever
from torchspeed.machine import Machine, environment
from torchspeed.run import Run


def wait_policy_variables(policy: str) -> dict[str, str]:
    """The environment in which OpenMP's threads wait "passive" (sleeping) or "active" (spinning)."""
    return {"OMP_WAIT_POLICY": policy.upper()}


@final
class WaitPolicy(ProcessLever):
    name = "wait_policy"
    pillar = "hardware"
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.OVERHEAD})
    usual_gain = 1.04

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "passive", "active")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if machine.cores == 1:
            raise NotApplicable("one core has no threads that wait for each other")

    def environ(self, option: Option) -> Mapping[str, str]:
        return wait_policy_variables(str(option))

    def apply(self, run: Run, option: Option) -> None:
        for name, value in self.environ(option).items():
            if environment(name) != value:
                raise NotApplicable(f"it acts before PyTorch is loaded; start this process with {name}={value}")
