"""Learning-rate schedules by name, built on ``torch.optim.lr_scheduler``.

The optimizer's learning rate is the highest that a schedule gives; each parameter group keeps its proportion.
A schedule is ticked once per step (or once per epoch: the job says which), and every number of steps here
counts such ticks. ``steps`` is the length of the whole run, warm-up included; other counts (``step_size``,
``milestones``, ``period``, ``decay_steps``) begin where the warm-up ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.optim.lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from torchspeed.errors import JobError
from torchspeed.optim.inverse_time import InverseTime
from torchspeed.optim.options import Options, check, frozen, known_name
from torchspeed.optim.stable_decay import StableDecay
from torchspeed.optim.warmup import WarmUp


def schedule(name: str, *, warmup_steps: int = 0, **options: Any) -> "ScheduleFactory":
    """A factory of the schedule called ``name`` (one of ``SCHEDULES``); call it with the optimizer.

    ========================  ==============================================================================
    name                      options
    ========================  ==============================================================================
    ``constant``
    ``step``                  ``step_size``, ``gamma=0.1``
    ``multistep``             ``milestones``, ``gamma=0.1``
    ``exponential``           ``gamma`` per step
    ``inverse_time``          ``decay_rate`` per step
    ``polynomial``            ``steps``, ``power=1.0``; ends at 0
    ``cosine``                ``steps``, ``eta_min=0.0`` (the last rate)
    ``cosine_restarts``       ``period``, ``growth=1`` (of the period, at each restart), ``eta_min=0.0``
    ``one_cycle``             ``steps``, and those of ``OneCycleLR``; momentum is cycled only when asked for
    ``warmup_stable_decay``   ``steps``, ``decay_steps`` (default: a fifth), ``shape="linear"`` or "sqrt"
    ``reduce_on_plateau``     those of ``ReduceLROnPlateau``; wants the metric, see ``advance``
    ========================  ==============================================================================

    ``warmup_steps`` puts a linear warm-up in front. Raises ``JobError`` for an unknown name or option, or one
    that is missing.
    """
    return ScheduleFactory(name, warmup_steps, frozen(options))


@dataclass(frozen=True)
class ScheduleFactory:
    """``factory(optimizer) -> LRScheduler``. A plain value: it compares, hashes, prints and pickles."""

    name: str
    warmup_steps: int = 0
    options: Options = ()

    def __post_init__(self) -> None:
        known_name("schedule", self.name, SCHEDULES)
        if type(self.warmup_steps) is not int or self.warmup_steps < 0:
            raise JobError(f"schedule {self.name!r}: warmup_steps is {self.warmup_steps!r}; give a whole number")
        options = dict(self.options)
        what = f"schedule {self.name!r}"
        check(what, _REGISTRY[self.name], options, hidden={"optimizer"}, also=["warmup_steps"])
        if "steps" in options and not (type(options["steps"]) is int and options["steps"] > self.warmup_steps):
            raise JobError(
                f"{what}: steps is {options['steps']!r} with warmup_steps {self.warmup_steps}; give the length of "
                "the whole run, a whole number above warmup_steps"
            )

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Raises ``JobError`` when PyTorch's class refuses a value."""
        try:
            if self.warmup_steps == 0:
                return self._after_warmup(optimizer)
            return WarmUp(optimizer, self._after_warmup, self.warmup_steps)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise JobError(f"schedule {self.name!r}: {error}") from error

    def _after_warmup(self, optimizer: Optimizer) -> LRScheduler:
        options = dict(self.options)
        if "steps" in options:
            options["steps"] -= self.warmup_steps
        return _REGISTRY[self.name](optimizer, **options)


def _constant(optimizer: Optimizer) -> LRScheduler:
    return torch_schedules.ConstantLR(optimizer, factor=1.0, total_iters=0)


def _step(optimizer: Optimizer, *, step_size: int, gamma: float = 0.1) -> LRScheduler:
    return torch_schedules.StepLR(optimizer, step_size, gamma)


def _multistep(optimizer: Optimizer, *, milestones: Sequence[int], gamma: float = 0.1) -> LRScheduler:
    return torch_schedules.MultiStepLR(optimizer, milestones, gamma)


def _exponential(optimizer: Optimizer, *, gamma: float) -> LRScheduler:
    return torch_schedules.ExponentialLR(optimizer, gamma)


def _inverse_time(optimizer: Optimizer, *, decay_rate: float) -> LRScheduler:
    return torch_schedules.LambdaLR(optimizer, InverseTime(decay_rate))


def _polynomial(optimizer: Optimizer, *, steps: int, power: float = 1.0) -> LRScheduler:
    return torch_schedules.PolynomialLR(optimizer, steps, power)


def _cosine(optimizer: Optimizer, *, steps: int, eta_min: float = 0.0) -> LRScheduler:
    return torch_schedules.CosineAnnealingLR(optimizer, steps, eta_min)


def _cosine_restarts(optimizer: Optimizer, *, period: int, growth: int = 1, eta_min: float = 0.0) -> LRScheduler:
    return torch_schedules.CosineAnnealingWarmRestarts(optimizer, period, growth, eta_min)


def _one_cycle(
    optimizer: Optimizer,
    *,
    steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    # PyTorch's default is True, which overwrites the momentum that the job asks for and gives one to
    # optimizers that were chosen without.
    cycle_momentum: bool = False,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> LRScheduler:
    make: Callable[..., LRScheduler] = torch_schedules.OneCycleLR
    return make(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=pct_start,
        anneal_strategy=anneal_strategy,
        cycle_momentum=cycle_momentum,
        base_momentum=base_momentum,
        max_momentum=max_momentum,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        three_phase=three_phase,
    )


def _warmup_stable_decay(
    optimizer: Optimizer, *, steps: int, decay_steps: int | None = None, shape: str = "linear"
) -> LRScheduler:
    decay_steps = max(1, steps // 5) if decay_steps is None else decay_steps
    return torch_schedules.LambdaLR(optimizer, StableDecay(steps, decay_steps, shape))


def _reduce_on_plateau(
    optimizer: Optimizer,
    *,
    mode: str = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
) -> LRScheduler:
    make: Callable[..., LRScheduler] = torch_schedules.ReduceLROnPlateau
    return make(
        optimizer,
        mode=mode,
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        min_lr=min_lr,
    )


_REGISTRY: dict[str, Callable[..., LRScheduler]] = {
    "constant": _constant,
    "step": _step,
    "multistep": _multistep,
    "exponential": _exponential,
    "inverse_time": _inverse_time,
    "polynomial": _polynomial,
    "cosine": _cosine,
    "cosine_restarts": _cosine_restarts,
    "one_cycle": _one_cycle,
    "warmup_stable_decay": _warmup_stable_decay,
    "reduce_on_plateau": _reduce_on_plateau,
}

SCHEDULES: tuple[str, ...] = tuple(_REGISTRY)
