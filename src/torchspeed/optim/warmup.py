"""Linear warm-up in front of any schedule.

Early gradients are large and point many ways, and the second moments of Adam are estimated from few of them;
a full step then can throw the weights somewhere they need long to return from. Warm-up climbs to the
schedule's first rate in equal parts: at step ``t`` of ``warmup_steps`` the factor is
``(t+1)/(warmup_steps+1)``, so no step is wasted at rate zero and the full rate comes exactly when the
schedule begins.

``SequentialLR`` would be PyTorch's way. It cannot hold a ``ReduceLROnPlateau``, it starts the second schedule
through the deprecated ``epoch`` argument, which computes by another formula than the schedule alone does, and
it calls the constructors' initial steps twice. Here the schedule is simply made, held still, and stepped when
its time comes: after the warm-up it gives the same bits as without one.

Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017 (arXiv 1706.02677), section 2.2.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer


def advance(schedule: LRScheduler, metric: float | None = None) -> None:
    """One tick of any schedule, after the optimizer's step; ``metric`` when one was measured at this step.

    A plateau schedule moves only when it is told a metric; every other ignores it.
    """
    if isinstance(schedule, WarmUp):
        schedule.step(metric)
    elif not isinstance(schedule, ReduceLROnPlateau):
        schedule.step()
    elif metric is not None:
        schedule.step(metric)


class WarmUp(LRScheduler):
    """Climb for ``warmup_steps`` ticks, then ``schedule(optimizer)``, whose step 0 is tick ``warmup_steps``.

    Each parameter group climbs to its own rate. ``state_dict`` holds the state of the inner schedule; the
    current rates are in the optimizer's, as with every schedule of PyTorch, so both are loaded, the schedule
    made first.
    """

    def __init__(self, optimizer: Optimizer, schedule: Callable[[Optimizer], LRScheduler], warmup_steps: int) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps is {warmup_steps}; it must be at least 0")
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.schedule = schedule(optimizer)
        self.base_lrs = [_copy(group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._climb()

    def step(self, metric: float | None = None) -> None:
        """One tick; ``metric`` is for a plateau schedule, and has no effect before the warm-up is over."""
        self.last_epoch += 1
        if self.last_epoch <= self.warmup_steps:
            self._climb()
        else:
            advance(self.schedule, metric)
            self._last_lr = [_copy(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the tick, the rates climbed to, the rates now, and the inner schedule's own state."""
        kept = ("warmup_steps", "base_lrs", "last_epoch", "_last_lr")
        return {**{key: self.__dict__[key] for key in kept}, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from ``state_dict()``, which is left as it is."""
        state = dict(state_dict)
        self.schedule.load_state_dict(dict(state.pop("schedule")))
        self.__dict__.update(state)

    def _climb(self) -> None:
        factor = (self.last_epoch + 1) / (self.warmup_steps + 1)
        for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(float(rate) * factor)
            else:
                group["lr"] = rate * factor
        self._last_lr = [_copy(group["lr"]) for group in self.optimizer.param_groups]


def _copy(rate: Any) -> Any:
    return rate.clone() if isinstance(rate, Tensor) else rate
