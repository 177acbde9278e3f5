"""How an optimizer walks over its parameters: one by one, all in a list, or in one fused kernel.

Physically: "for-loop" issues some ten small operations per parameter; "foreach" issues each operation once for the
list of all parameters; "fused" reads and writes every parameter and its state once, in a single kernel. It wins with
many small parameters (launch and dispatch cost) and, fused, with large ones (memory traffic: Adam reads 4 and writes 3
numbers per parameter instead of about 15). Foreach loses memory to temporaries, and on a CPU often time. CLOSE: fused
kernels contract multiply and add.

Source: https://docs.pytorch.org/docs/stable/optim.html, "Algorithms", on the three implementations.
"""

from typing import final

from torch.optim import Optimizer

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Run

_FLAGS = {
    "fused": {"foreach": False, "fused": True},
    "foreach": {"foreach": True, "fused": False},
    "for-loop": {"foreach": False, "fused": False},
}


def set_implementation(optimizer: Optimizer, implementation: str) -> None:
    """Switch ``optimizer`` in place to "for-loop", "foreach" or "fused"; state and hyper-parameters stay."""
    for options in (optimizer.defaults, *optimizer.param_groups):
        options.update({flag: value for flag, value in _FLAGS[implementation].items() if flag in options})
    if implementation == "fused":
        optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]  # as the constructors set it


@final
class OptimizerImpl(Lever):
    name = "optimizer_impl"
    pillar = "optim"
    stage = Stage.OPTIMIZER
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.MEMORY, Bound.OVERHEAD})
    usual_gain = 1.3

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, *_FLAGS)

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        flag = "foreach" if option == "for-loop" else str(option)
        if flag not in facts.optimizer_options:
            raise NotApplicable(f"{facts.optimizer} has no {option} implementation")
        if option == "fused" and facts.has_sparse_gradients:
            raise NotApplicable("fused optimizers do not take the sparse gradients of this model")

    def apply(self, run: Run, option: Option) -> None:
        set_implementation(run.optimizer, str(option))
