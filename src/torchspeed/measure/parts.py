"""Where the time of a step goes: waiting for data, transfer, forward, backward, optimizer, everything else.

The steps measured are those of the training itself, over the ends of epochs, with its schedule. Every moment of a step
belongs to one part, so the parts add up to the step. On a GPU times are those of its own queue (``measure.clock``):
"data" is then how long it stood idle for want of a batch, and loading that hides behind computing costs nothing.

Steps are taken in blocks, and a part's seconds are its mean in the middle half of the blocks. A median over steps would
be wrong: a loader that works ahead hands over most batches at once and is then late with one, and of such a wait the
median is nothing while the training pays all of it. A mean over all blocks would hold what others do on a machine that
is shared. Blocks of marked steps alternate with blocks in which only the end of each step is marked, so that what the
marks cost themselves is known. The smaller last batch of an epoch is trained on and not counted.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeVar

from torchspeed.engine.step import BACKWARD, FORWARD, OPTIMIZER, TRANSFER, make_step, unmarked
from torchspeed.job import Batch
from torchspeed.measure.clock import Marks, synchronize
from torchspeed.measurement import Spread
from torchspeed.optim import advance
from torchspeed.run import Mark, Run, Step

DATA, STEP, OTHER = "data", "step", "other"
PARTS = (DATA, TRANSFER, FORWARD, BACKWARD, OPTIMIZER, STEP, OTHER)

LEAST_STEPS = 10
LONGEST_SECONDS = 15.0
LONGEST_WARMUP_SECONDS = 6.0
BLOCK_SECONDS = 0.25
MOST_IN_BLOCK = 50

Place = tuple[int, int]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Parts:
    """One step of ``samples`` samples, in seconds.

    seconds: part -> mean; spread: part -> median and quartiles over all steps. Where the whole step is one program
    (``Run.step_wrappers``) the part "step" stands for transfer, forward, backward and optimizer.
    step_seconds, step_spread: from the end of a step to the end of the next. unmarked: the same of steps without marks
    inside. warmup_seconds: the first ``warmup_steps``, with what is compiled, allocated or started in them.
    """

    seconds: Mapping[str, float]
    spread: Mapping[str, Spread]
    step_seconds: float
    step_spread: Spread
    unmarked: Spread | None
    samples: int
    warmup_steps: int
    warmup_seconds: float

    @property
    def shares(self) -> dict[str, float]:
        """Part -> its share of the step, 0 to 1."""
        return {part: seconds / self.step_seconds for part, seconds in self.seconds.items()}


class StepFailed(Exception):
    """Step ``number`` (from 1) raised, on ``batch`` at ``place`` (epoch, batch number). ``parts``: of those before."""

    def __init__(self, number: int, batch: Batch, place: Place, error: Exception) -> None:
        super().__init__(f"step {number}: {error}")
        self.number, self.batch, self.place, self.error = number, batch, place, error
        self.parts: Parts | None = None


class Walk:
    """Goes through the steps of a run, one after the other. ``number`` of them are taken."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.number = 0
        self.batches = self._batches()

    @property
    def place(self) -> Place:
        """(epoch, batch number) of the next batch."""
        return divmod(self.number, len(self.run.loader))

    def step(self, take: Step, mark: Mark) -> bool:
        """One more; whether its batch was a full one. Raises StepFailed; what the loader raises comes as it is."""
        place = self.place
        batch = next(self.batches)
        mark(DATA)
        try:
            take(batch)
        except Exception as error:
            raise StepFailed(self.number + 1, batch, place, error) from error
        if self.run.step_wrappers:
            mark(STEP)
        self.number += 1
        self._advance()
        mark(OTHER)
        full = self.run.loader.samples // self.run.loader.batch_size
        return place[1] < full or full == 0

    def _advance(self) -> None:
        every = self.run.schedule_every
        if self.run.schedule is not None and (every == "step" or (every == "epoch" and self.place[1] == 0)):
            with suppress(ValueError):  # a schedule may end with the job, which can be shorter than a measurement
                advance(self.run.schedule)

    def _batches(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from self.run.loader.epoch(epoch)
            epoch += 1


@dataclass
class _Taken:
    """Seconds by part of each counted step, in blocks; and of each counted step without marks inside."""

    marked: list[list[dict[str, float]]] = field(default_factory=list)
    unmarked: list[float] = field(default_factory=list)
    warmup_steps: int = 0
    warmup_seconds: float = 0.0

    def parts(self, run: Run) -> Parts | None:
        steps = [step for block in self.marked for step in block]
        if not steps:
            return None
        there = [part for part in PARTS if any(part in step for step in steps)]
        typical = [step for block in middle_half(self.marked, _mean_step) for step in block]
        return Parts(
            seconds={part: fmean(step.get(part, 0.0) for step in typical) for part in there},
            spread={part: Spread.of([step.get(part, 0.0) for step in steps]) for part in there},
            step_seconds=fmean(sum(step.values()) for step in typical),
            step_spread=Spread.of([sum(step.values()) for step in steps]),
            unmarked=Spread.of(self.unmarked) if self.unmarked else None,
            samples=min(run.loader.batch_size, run.loader.samples),
            warmup_steps=self.warmup_steps,
            warmup_seconds=self.warmup_seconds,
        )


def middle_half(items: list[_T], seconds: Callable[[_T], float]) -> list[_T]:
    """Without the quickest and the slowest quarter; of less than four all are kept."""
    ordered = sorted(items, key=seconds)
    quarter = len(ordered) // 4
    return ordered[quarter : len(ordered) - quarter]


def _mean_step(block: list[dict[str, float]]) -> float:
    return fmean(sum(step.values()) for step in block)


def measure_parts(run: Run, *, steps: int | None = None, warmup: int = 3, seconds: float = 5.0) -> Parts:
    """Take steps of ``run`` (its weights move) and time their parts.

    steps: how many to time, and as many without marks; None: for ``seconds``, at least 10 of each, but no more
    blocks after 15 s. warmup: steps before, and as many more as batches may lie ready when the loader works ahead; no
    more after 6 s.
    Raises StepFailed.
    """
    walk, taken = Walk(run), _Taken()
    try:
        _warm_up(walk, taken, warmup)
        _take_blocks(walk, taken, steps, seconds)
    except StepFailed as failure:
        failure.parts = taken.parts(run)
        raise
    parts = taken.parts(run)
    assert parts is not None
    return parts


def _warm_up(walk: Walk, taken: _Taken, warmup: int) -> None:
    loader, take = walk.run.loader, make_step(walk.run)
    ready = loader.workers * loader.prefetch + 1 if loader.workers else 0
    began = time.perf_counter()
    while walk.number < max(warmup, ready) and taken.warmup_seconds < LONGEST_WARMUP_SECONDS:
        walk.step(take, unmarked)
        synchronize(walk.run.device)
        taken.warmup_steps, taken.warmup_seconds = walk.number, time.perf_counter() - began


def _take_blocks(walk: Walk, taken: _Taken, steps: int | None, seconds: float) -> None:
    marks = Marks(walk.run.device)
    marked = make_step(walk.run, unmarked if walk.run.step_wrappers else marks)
    plain = make_step(walk.run)

    def end_only(part: str) -> None:
        if part == OTHER:
            marks(part)

    loader = walk.run.loader
    ahead = max(4, loader.workers * loader.prefetch)
    began = time.perf_counter()
    length, marked_first = 1, True
    while True:
        for with_marks in (marked_first, not marked_first):
            if with_marks:
                block = _block(walk, marked, marks, marks, length)
                taken.marked += [block] if block else []
            else:
                taken.unmarked += [step[OTHER] for step in _block(walk, plain, end_only, marks, length)]
        marked_first = not marked_first  # A B B A: a machine that slows down slows down both
        elapsed, count = time.perf_counter() - began, sum(map(len, taken.marked))
        if count and steps is not None and count >= steps:
            return
        if count and steps is None and (elapsed >= LONGEST_SECONDS or (elapsed >= seconds and count >= LEAST_STEPS)):
            return
        most = MOST_IN_BLOCK if steps is None else steps - count
        length = max(1, min(most, _length(elapsed / max(2 * count, 1), ahead)))


def _length(step_seconds: float, ahead: int) -> int:
    """Steps in a block: a quarter of a second of them, and more, up to 2 s, if a loader works further ahead."""
    return round(max(BLOCK_SECONDS, min(ahead * step_seconds, 8 * BLOCK_SECONDS)) / step_seconds)


def _block(walk: Walk, take: Step, mark: Mark, marks: Marks, count: int) -> list[dict[str, float]]:
    """``count`` further steps; seconds by part of those with a full batch."""
    marks.start()
    full = [walk.step(take, mark) for _ in range(count)]
    steps: list[dict[str, float]] = [{}]
    for part, seconds in marks.read():
        steps[-1][part] = steps[-1].get(part, 0.0) + seconds
        if part == OTHER:
            steps.append({})
    return [step for step, counts in zip(steps, full, strict=False) if counts]
