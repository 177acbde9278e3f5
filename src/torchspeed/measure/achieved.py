"""What each module makes of the machine: its time, its rate, and how near that is to the limit of its work."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchspeed.measure.limits import Limits
from torchspeed.measure.modules import ModuleSeconds
from torchspeed.measure.work import StepWork

TOP = 8


@dataclass(frozen=True)
class Achieved:
    """A module, its children not included. Seconds per step; share: of the step; flops_per_second and share_of_limit
    over forward and backward, None where no work was counted for it."""

    name: str
    kind: str
    forward_seconds: float
    backward_seconds: float
    share: float
    flops_per_second: float | None
    share_of_limit: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def achieved(timed: Sequence[ModuleSeconds], work: StepWork | None, limits: Limits) -> tuple[Achieved, ...]:
    """The modules that take most of the time, the slowest first."""
    counted = {} if work is None else {module.name: module for module in work.modules}
    found = []
    for module in sorted(timed, key=lambda module: -module.total)[:TOP]:
        rate = share = None
        if module.name in counted:
            both = counted[module.name].forward + counted[module.name].backward
            rate = both.total_flops / module.total
            share = both.limit_seconds(limits) / module.total
        found.append(
            Achieved(
                module.name,
                module.kind,
                module.forward,
                module.backward,
                module.share,
                rate,
                share,
            )
        )
    return tuple(found)
