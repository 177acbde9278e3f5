"""Steps of a run, one after the other over the ends of epochs, as the training loop takes them; to be measured."""

import time
from dataclasses import dataclass

import torch

from torchspeed.batch import batch_length
from torchspeed.engine.guard import explain
from torchspeed.engine.step import make_step, unmarked
from torchspeed.job import Batch, Job
from torchspeed.measure.clock import synchronize
from torchspeed.measure.parts import StepFailed, Walk
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
    """Takes the steps of ``run`` from the beginning of its data on."""

    def __init__(self, run: Run, job: Job) -> None:
        self.run, self.job = run, job
        self._walk = Walk(run)
        self._take = make_step(run)

    def block(self, steps: int) -> Block:
        """``steps`` further steps. Raises what ``train`` would raise."""
        losses: list[torch.Tensor] = []
        samples = 0

        def take(batch: Batch) -> torch.Tensor:
            nonlocal samples
            losses.append(self._take(batch))
            samples += batch_length(batch)
            return losses[-1]

        synchronize(self.run.device)
        began = time.perf_counter()
        try:
            for _ in range(steps):
                self._walk.step(take, unmarked)
        except StepFailed as failed:
            raise explain(self.run, self.job, failed.batch, failed.error, failed.place) from failed.error
        synchronize(self.run.device)
        seconds = time.perf_counter() - began
        return Block(seconds, steps, samples, tuple(float(loss) for loss in losses))

    def take(self, batch: Batch, place: tuple[int, int]) -> torch.Tensor:
        """One step on ``batch``, that of (epoch, number), wherever the data stand; its loss."""
        try:
            return self._take(batch)
        except Exception as error:
            raise explain(self.run, self.job, batch, error, place) from error
