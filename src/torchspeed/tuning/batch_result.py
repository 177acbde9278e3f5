"""``LargestBatch`` and ``FastestBatch``: what was found about the batch size of a job, to be read and then decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchspeed.levers.optim.batch_size import SIZES
from torchspeed.measure.statistics import Interval
from torchspeed.plan import Option
from torchspeed.tuning.bench import Ran, gib

WORTH = 1.02
ITSELF = Interval(1.0, 1.0, 1.0, 0, 1.0)


@dataclass(frozen=True)
class Question:
    """What both answers rest on. ``written``: the job's batch size; ``allowed``: bytes of one rank."""

    job: str
    machine: str
    date: str
    plan: Mapping[str, Option]
    ranks: int
    written: int
    allowed: int
    complete: bool
    notes: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "plan": dict(self.plan), "notes": list(self.notes), "guarantee": "GOAL"}

    def advice(self, batch_size: int) -> str:
        """What it means to take ``batch_size`` instead, and how."""
        if batch_size == self.written:
            return "That is the job's own."
        steps = "fewer, larger" if batch_size > self.written else "more, smaller"
        set_ = f", or --set batch_size={batch_size}" if batch_size in SIZES else ""
        return (
            f"GOAL: it is another training, of {steps} steps; learning rate and schedule are to be thought about "
            f"(arXiv:1812.06162). Nothing was chosen. To use it: torchspeed train JOB --batch-size {batch_size}{set_}"
        )


@dataclass(frozen=True)
class LargestBatch:
    """``batch_size``: the largest that ran, over all ranks. ``tried``: each size of one rank, with its peak memory.
    ``why``: what is in the way of a larger one.
    """

    batch_size: int
    tried: tuple[Ran, ...]
    why: str
    question: Question

    def as_dict(self) -> dict[str, Any]:
        ranks = self.question.ranks
        return {
            **self.question.as_dict(),
            "batch_size": self.batch_size,
            "batch_size_per_rank": self.batch_size // ranks,
            "why_no_larger": self.why,
            "tried": [
                {"batch_size": one.batch_size * ranks, "peak_memory": one.peak_memory, "error": one.why or None}
                for one in self.tried
            ],
        }

    def __str__(self) -> str:
        asked, ranks = self.question, self.question.ranks
        lines = [f"{'batch':>12}  {'peak memory' + (' of a rank' if ranks > 1 else '')}"]
        for one in sorted(self.tried, key=lambda one: one.batch_size):
            lines.append(f"{one.batch_size * ranks:>12,}  {one.why or gib(one.peak_memory)}")
        per_rank = f", {self.batch_size // ranks:,} on each of {ranks} ranks" if ranks > 1 else ""
        answer = (
            f"{asked.job}: the largest batch that fits is {self.batch_size:,}{per_rank} (written: {asked.written:,})"
        )
        return "\n".join([*lines, "", f"{answer}; {self.why}", *asked.notes, asked.advice(self.batch_size)])


@dataclass(frozen=True)
class Throughput:
    """Of one batch size over all ranks. ``interval``: of its throughput ÷ that of the job's size. ``peak_memory``:
    bytes of one rank.
    """

    batch_size: int
    samples_per_second: float
    interval: Interval
    peak_memory: int


@dataclass(frozen=True)
class FastestBatch:
    """``batch_size``: the smallest within 2 % of the best throughput, over all ranks. ``why``: where the search ended.

    sizes: all that were compared, from the smallest.
    """

    batch_size: int
    sizes: tuple[Throughput, ...]
    why: str
    question: Question

    @property
    def chosen(self) -> Throughput:
        return next(one for one in self.sizes if one.batch_size == self.batch_size)

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.question.as_dict(),
            "batch_size": self.batch_size,
            "batch_size_per_rank": self.batch_size // self.question.ranks,
            "samples_per_second": self.chosen.samples_per_second,
            "speedup": self.chosen.interval.ratio,
            "interval": [self.chosen.interval.low, self.chosen.interval.high],
            "why_no_other": self.why,
            "sizes": [
                {
                    "batch_size": one.batch_size,
                    "samples_per_second": one.samples_per_second,
                    "speedup": one.interval.ratio,
                    "interval": [one.interval.low, one.interval.high],
                    "peak_memory": one.peak_memory,
                }
                for one in self.sizes
            ],
        }

    def __str__(self) -> str:
        asked = self.question
        lines = [f"{'batch':>12}  {'samples/s':>12}  {'÷ as written':<22}  peak memory"]
        for one in self.sizes:
            ratio = "1" if one.interval == ITSELF else factor(one.interval)
            lines.append(
                f"{one.batch_size:>12,}  {one.samples_per_second:>12,.4g}  {ratio:<22}  {gib(one.peak_memory)}"
            )
        answer = (
            f"{asked.job}: the smallest batch within {WORTH - 1:.0%} of the best throughput is {self.batch_size:,} "
            f"(written: {asked.written:,}); {self.why}"
        )
        return "\n".join([*lines, "", answer, *asked.notes, asked.advice(self.batch_size)])


def factor(interval: Interval) -> str:
    """As text, with its bounds."""
    return f"{interval.ratio:.3g}× [{interval.low:.3g}, {interval.high:.3g}]"
