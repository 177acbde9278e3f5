"""The training loop, to be read in one sitting.

A position is always normalised: after the last batch of an epoch it stands at batch 0 of the next. Whatever is due
after a step (log, evaluation, checkpoint, stop) happens in that order, with the position already moved on, so a
checkpoint is a state from which the very next batch follows.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchspeed.engine.evaluate import evaluate
from torchspeed.engine.events import Evaluated, Event, StepLogged
from torchspeed.engine.guard import explain
from torchspeed.engine.step import make_step
from torchspeed.errors import DivergedError, JobError, Preempted
from torchspeed.job import Batch, Job
from torchspeed.optim import advance
from torchspeed.run import Run


@dataclass
class Position:
    """Where a training stands, all of it plain numbers: this is saved in checkpoints.

    seconds: time spent so far, over all resumptions. recent: losses since the last log.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    value: float | None = None
    best: float | None = None
    loss: float | None = None
    seconds_to_goal: float | None = None
    evaluation_due: bool = False


@dataclass(frozen=True)
class Hooks:
    """What the loop asks of its surroundings."""

    emit: Callable[[Event], None]
    save: Callable[[], None]
    checkpoint_due: Callable[[], bool]
    stop_requested: Callable[[], bool]
    first_step: Callable[[Tensor], None]


def total_steps(job: Job, run: Run) -> int:
    return max(1, math.ceil(job.epochs * len(run.loader)))


def fit(run: Run, job: Job, position: Position, hooks: Hooks, log_every: int) -> None:
    """Train ``run`` from ``position`` to the end of the job, or to its goal.

    Raises Preempted after saving when a stop was requested; DivergedError when the loss is no longer finite.
    """
    last_step = total_steps(job, run)
    evaluate_every = job.evaluate_every or len(run.loader)
    clock = _Clock(run, position)
    step = make_step(run)
    losses: list[Tensor] = []

    def save() -> None:
        clock.read()
        position.recent += _read(losses)
        _check_finite(position)
        hooks.save()

    if position.evaluation_due:
        _tick(run, position, _evaluate(run, job, position, hooks, clock, save))
    if position.step >= last_step or _done(job, position):
        return
    for batch in batches(run, position):
        try:
            loss = step(batch)
        except Exception as error:
            raise explain(run, job, batch, error, (position.epoch, position.batch)) from error
        losses.append(loss)
        _advance(run, position)
        if position.step == 1:
            hooks.first_step(loss)
        if position.step % log_every == 0:
            _log(run, job, position, hooks, clock, losses)
        metric = None
        if position.step % evaluate_every == 0 or position.step == last_step:
            position.evaluation_due = True
            metric = _evaluate(run, job, position, hooks, clock, save)
        _tick(run, position, metric)
        finished = position.step == last_step or _done(job, position)
        if finished or hooks.checkpoint_due():
            save()
        if finished:
            return
        if hooks.stop_requested():
            save()
            raise Preempted(f"stopped by a signal at step {position.step}; the state is saved")


def samples_until(run: Run, position: Position) -> int:
    """Samples that were trained on so far, an uneven last batch counted as it is."""
    per_epoch = min(len(run.loader) * run.loader.batch_size, run.loader.samples)
    return position.epoch * per_epoch + min(position.batch * run.loader.batch_size, per_epoch)


def watched_value(job: Job, metric: float | None, loss: float | None) -> float | None:
    """Which of the two the goal is about."""
    return loss if job.goal is not None and job.goal.metric == "loss" else metric


def batches(run: Run, position: Position) -> Iterator[Batch]:
    """Batches from the position on, over the ends of epochs."""
    while True:
        yield from run.loader.epoch(position.epoch, position.batch)


def _advance(run: Run, position: Position) -> None:
    position.step += 1
    position.batch += 1
    if position.batch == len(run.loader):
        position.epoch, position.batch = position.epoch + 1, 0


def _tick(run: Run, position: Position, metric: float | None) -> None:
    """Move the schedule on, with the ``metric`` if this step was evaluated."""
    due = {"step": True, "epoch": position.batch == 0, "evaluation": metric is not None}[run.schedule_every]
    if run.schedule is not None and due:
        try:
            advance(run.schedule, metric)
        except ValueError as error:
            raise JobError(f"the schedule cannot go on after step {position.step}: {error}") from error


def _log(run: Run, job: Job, position: Position, hooks: Hooks, clock: "_Clock", losses: list[Tensor]) -> None:
    position.recent += _read(losses)
    _check_finite(position)
    mean = sum(position.recent) / len(position.recent)
    position.recent = []
    hooks.emit(
        StepLogged(
            step=position.step,
            epoch=_epochs(run, position),
            loss=mean,
            learning_rate=float(run.optimizer.param_groups[0]["lr"]),
            samples_per_second=clock.samples_per_second(),
            seconds=clock.read(),
        )
    )


def _evaluate(
    run: Run, job: Job, position: Position, hooks: Hooks, clock: "_Clock", save: Callable[[], None]
) -> float | None:
    """Evaluate and return the metric; None without validation data."""
    if run.valid is None:
        position.evaluation_due = False
        return None
    with clock.paused():
        scores = evaluate(run, job, hooks.stop_requested, lambda batch, error: explain(run, job, batch, error, None))
    if scores is None:
        save()
        raise Preempted(f"stopped by a signal while evaluating after step {position.step}; the state is saved")
    position.evaluation_due = False
    position.value, position.loss = scores.metric, scores.loss
    goal, reached = job.goal, None
    watched = watched_value(job, scores.metric, scores.loss)
    if goal is not None and watched is not None:
        reached = goal.reached(watched)
        if goal.better(watched, position.best):
            position.best = watched
        if reached and position.seconds_to_goal is None:
            position.seconds_to_goal = clock.read()
    hooks.emit(
        Evaluated(
            position.step,
            _epochs(run, position),
            job.metric_name,
            scores.metric,
            scores.loss,
            reached,
            clock.read(),
        )
    )
    return scores.metric


def _done(job: Job, position: Position) -> bool:
    return job.stop_at_goal and position.seconds_to_goal is not None


def _epochs(run: Run, position: Position) -> float:
    return position.epoch + position.batch / len(run.loader)


def _read(losses: list[Tensor]) -> list[float]:
    """The values of ``losses``, which is emptied: the one place where the loop waits for the device."""
    values = torch.stack(losses).tolist() if losses else []
    losses.clear()
    return [float(value) for value in values]


def _check_finite(position: Position) -> None:
    """Raise DivergedError at a loss that is not; whoever saves asks first, so that no checkpoint is beyond it."""
    for number, loss in enumerate(position.recent):
        if not math.isfinite(loss):
            step = position.step - len(position.recent) + 1 + number
            raise DivergedError(
                f"the loss is {loss} at step {step}; the last checkpoint is from before it. "
                "Lower the learning rate, warm it up, or set clip_grad_norm"
            )


class _Clock:
    """Seconds of the run over all its resumptions, and the rate of samples without evaluations."""

    def __init__(self, run: Run, position: Position) -> None:
        self.run = run
        self.position = position
        self.mark = time.perf_counter()
        self.rate_mark = self.mark
        self.rate_samples = samples_until(run, position)

    def read(self) -> float:
        now = time.perf_counter()
        self.position.seconds += now - self.mark
        self.mark = now
        return self.position.seconds

    def samples_per_second(self) -> float:
        now, samples = time.perf_counter(), samples_until(self.run, self.position)
        rate = (samples - self.rate_samples) / max(now - self.rate_mark, 1e-9)
        self.rate_mark, self.rate_samples = now, samples
        return rate

    def paused(self) -> Any:
        return _Pause(self)


class _Pause:
    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def __enter__(self) -> None:
        self.entered = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.clock.rate_mark += time.perf_counter() - self.entered
