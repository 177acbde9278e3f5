"""Steps of a run, one after the other over the ends of epochs, as the training loop takes them; to be measured."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from torchspeed.batch import batch_length
from torchspeed.engine.guard import explain
from torchspeed.engine.loop import total_steps
from torchspeed.engine.step import make_step
from torchspeed.job import Batch, Job
from torchspeed.measure.clock import synchronize
from torchspeed.optim import advance
from torchspeed.run import Run


@dataclass(frozen=True)
class Block:
    """Steps that were timed as one: wall-clock ``seconds`` for all of them, the device waited for at both ends."""

    seconds: float
    steps: int
    samples: int
    losses: tuple[float, ...]

    @property
    def seconds_per_sample(self) -> float:
        return self.seconds / self.samples


class Stepper:
    """Takes the steps of ``run``; ``step`` counts them. The data start at epoch 0."""

    def __init__(self, run: Run, job: Job) -> None:
        self.run, self.job = run, job
        self.step = 0
        self._take = make_step(run)
        self._last_step = total_steps(job, run)
        self._batches = self._all_batches()

    def block(self, steps: int) -> Block:
        """``steps`` further steps. Raises what ``train`` would raise, with the step in it."""
        losses, samples = [], 0
        synchronize(self.run.device)
        began = time.perf_counter()
        for _ in range(steps):
            batch = next(self._batches)
            losses.append(self.take(batch))
            samples += batch_length(batch)
            self._advance()
        synchronize(self.run.device)
        seconds = time.perf_counter() - began
        return Block(seconds, steps, samples, tuple(float(loss) for loss in losses))

    def take(self, batch: Batch) -> torch.Tensor:
        """One step on ``batch``, wherever the data stand; the loss."""
        try:
            return self._take(batch)
        except Exception as error:
            length = len(self.run.loader)
            raise explain(self.run, self.job, batch, error, (self.step // length, self.step % length)) from error

    def _advance(self) -> None:
        self.step += 1
        schedule, every = self.run.schedule, self.run.schedule_every
        ends = self.step % len(self.run.loader) == 0
        due = every == "step" or (every == "epoch" and ends)
        if schedule is not None and due and self.step < self._last_step:  # some cannot go beyond the end of the job
            advance(schedule, None)

    def _all_batches(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from self.run.loader.epoch(epoch)
            epoch += 1
