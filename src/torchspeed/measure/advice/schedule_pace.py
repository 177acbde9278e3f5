"""A learning-rate schedule that is stepped at another pace than it was made for.

Schedules count calls of ``step()`` and do not know what they count. One made for epochs (``StepLR(optimizer, 7)``) and
stepped at every batch is at its end before the first epoch is; one made for all steps of a training and stepped at
every epoch hardly moves. So it is run here, on a copy of the optimizer's groups, for as long as the training will.
Source: https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate.
"""

import copy
import math
import warnings
from collections.abc import Iterator

from torch.optim.lr_scheduler import ReduceLROnPlateau

from torchspeed.measure.advice.subject import Advice, Subject

_GONE, _STILL, _EARLY, _MOST_STEPS = 1e-4, 0.02, 0.5, 100_000
_CYCLES = 10
_PERIODIC = ("CyclicLR", "CosineAnnealingWarmRestarts")


def schedule_pace(subject: Subject) -> Iterator[Advice]:
    job = subject.job
    if (
        job.schedule is None
        or job.schedule_every == "evaluation"
        or isinstance(subject.run.schedule, ReduceLROnPlateau)
    ):
        return
    epochs, batches = math.ceil(job.epochs), len(subject.run.loader)
    steps = math.ceil(job.epochs * batches)
    moves, otherwise = (steps, epochs) if job.schedule_every == "step" else (epochs, steps)
    other = "epoch" if job.schedule_every == "step" else "step"
    rates, problem = _rates(subject, min(moves, _MOST_STEPS))
    found = problem or _judged(rates, moves, type(subject.run.schedule).__name__, otherwise, subject)
    if found:
        yield Advice(
            "schedule_pace",
            subject.job_line("schedule"),
            f"the schedule is stepped once per {job.schedule_every}, {moves:,} times in all",
            found,
            f'if it was made for {otherwise:,} steps, set schedule_every="{other}"',
        )


def _rates(subject: Subject, moves: int) -> tuple[list[float], str]:
    """The largest learning rate of all groups after each move; and what the schedule raised, if it did."""
    assert subject.job.schedule is not None
    optimizer = copy.copy(subject.run.optimizer)
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = float(group.pop("initial_lr", group["lr"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has not been stepped
        schedule = subject.job.schedule(optimizer)
        rates = [_rate(optimizer)]
        for move in range(moves):
            try:
                schedule.step()
            except ValueError as error:
                return rates, f"it fails at move {move + 1:,} of {moves:,}: {error}"
            rates.append(_rate(optimizer))
    return rates, ""


def _rate(optimizer: object) -> float:
    return max(float(group["lr"]) for group in optimizer.param_groups)  # type: ignore[attr-defined]


def _judged(rates: list[float], moves: int, kind: str, otherwise: int, subject: Subject) -> str:
    top = max(rates)
    last = max((i for i, rate in enumerate(rates) if rate > _GONE * top), default=0)
    if top > 0 and last + 1 < _EARLY * moves:
        return f"from move {last + 1:,} on the learning rate is below 1/{round(1 / _GONE):,} of its largest value"
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(rates, rates[1:], rates[2:], strict=False))
    if turns >= _CYCLES and kind not in _PERIODIC:
        return f"the learning rate goes up and down {turns:,} times"
    if subject.job.schedule_every == "epoch" and moves > 1 and (top - min(rates)) <= _STILL * top and top > 0:
        further, _ = _rates(subject, min(otherwise, _MOST_STEPS))
        if (max(further) - min(further)) > 5 * _STILL * max(further):
            return f"the learning rate changes by {(top - min(rates)) / top:.1%} in all"
    return ""
