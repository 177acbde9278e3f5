"""``largest_batch`` and ``fastest_batch``: how many samples a step can hold, and how many it should for throughput.

Both are answers and no choice. Another batch size is another training (GOAL): what it gains per second it may lose in
steps, and only whoever wrote the job can say what learning rate and schedule go with it. So ``tune`` never tries it,
and these two report.

Sizes run in fresh processes, so that one that lacks memory takes nothing along. The largest is found along the line
of peak memory (``torchspeed.tuning.growth``). The fastest is found by doubling while that pays, each size
against its neighbour in interleaved blocks; samples per second level off where the machine is full, so the answer is
the smallest size whose throughput is within 2 % of the best.

Source: McCandlish et al., "An Empirical Model of Large-Batch Training", arXiv:1812.06162, on what a larger batch is
worth.
"""

import time
from collections.abc import Callable

from torchspeed.errors import JobError
from torchspeed.job import Job
from torchspeed.measure.statistics import Interval, combine
from torchspeed.measurement import Provenance
from torchspeed.plan import Plan
from torchspeed.tuning.batch_result import ITSELF, WORTH, FastestBatch, LargestBatch, Question, Throughput, factor
from torchspeed.tuning.bench import Bench, Ran, gib
from torchspeed.tuning.compare import compare
from torchspeed.tuning.source import Source
from torchspeed.tuning.trial import Trial, TrialFailed
from torchspeed.tuning.tune import read_bytes, read_duration

ALPHA = 0.02
BLOCK_SECONDS = 0.1
MOST_STEPS = 1_000
LONGEST_COMPARISON = 0.25


def _silent(line: str) -> None:
    """Nobody listens."""


def largest_batch(
    job: Job,
    *,
    plan: Plan | None = None,
    device: str | None = None,
    memory: str | int | None = None,
    budget: str | float = "2m",
    ranks: int = 1,
    source: Source | None = None,
    say: Callable[[str], None] = _silent,
) -> LargestBatch:
    """The largest batch that fits into memory, to within a sixteenth (or eight samples); it has run for some steps.

    plan: what it is run with; None is the job as written. memory: bytes that all ranks on this host may use, or "8GiB";
    None is nearly all that the device has, or that the host has free. ranks: processes that share a batch, each with a
    device of its own, or with a share of this host on a CPU. budget, source, say: as for ``tune``.

    Raises JobError when the job fails for anything but a lack of memory, or when nothing fits; PlanError for a plan
    that cannot be applied, or a budget or memory that cannot be read.
    """
    began = time.monotonic()
    with Bench(job, plan, device, read_bytes(memory), read_duration(budget), ranks, source) as bench:
        growth = bench.growth
        size: int | None = bench.rank_size
        while size is not None and bench.in_time(size):
            trial = bench.open(size)
            if trial is not None:
                bench.close(trial)
            say(_said(bench.ran[-1], ranks))
            size = growth.next()
        if not growth.largest:
            tried = ", ".join(f"{one.batch_size * ranks:,}" for one in bench.ran)
            raise JobError(f"no batch size that was tried ({tried}) fits into {gib(growth.allowed)} of memory a rank")
        why = _why_no_larger(bench)
        return LargestBatch(growth.largest * ranks, tuple(bench.ran), why, _question(bench, began))


def fastest_batch(
    job: Job,
    *,
    plan: Plan | None = None,
    device: str | None = None,
    memory: str | int | None = None,
    budget: str | float = "2m",
    ranks: int = 1,
    source: Source | None = None,
    say: Callable[[str], None] = _silent,
) -> FastestBatch:
    """The smallest batch whose throughput is within 2 % of the best, among the job's own, its doubles and its halves.

    Arguments are those of ``largest_batch``. With several ranks, throughput is that of one times their number.

    Raises JobError when the job fails at its own batch size; PlanError as ``largest_batch`` does.
    """
    began = time.monotonic()
    with Bench(job, plan, device, read_bytes(memory), read_duration(budget), ranks, source) as bench:
        search = _Search(bench, say)
        why = search.double()
        if not search.gained:
            why = f"{why}; {search.halve()}"
        rows = search.rows()
        best = max(row.interval.ratio for row in rows)
        chosen = min(row.batch_size for row in rows if row.interval.ratio * WORTH >= best)
        return FastestBatch(chosen, tuple(rows), why, _question(bench, began))


class _Search:
    """Neighbours compared from the job's size on. ``found``: throughput of each size ÷ that of the job's."""

    def __init__(self, bench: Bench, say: Callable[[str], None]) -> None:
        self.bench, self.say = bench, say
        self.size, trial = bench.rank_size, bench.open(bench.rank_size)
        ran = bench.ran[-1]
        if trial is None or ran.peak_memory > bench.growth.allowed:
            problem = ran.why or f"{gib(ran.peak_memory)} is more than the {gib(bench.growth.allowed)} that are allowed"
            raise JobError(
                f"at its own batch size of {bench.job.batch_size:,} the job does not fit into memory ({problem}); "
                "--largest-batch finds the size that does"
            )
        self.trial: Trial = trial
        self.found = {self.size: ITSELF}
        self.gained = False
        self._seconds_per_sample = ran.seconds / self.size

    def double(self) -> str:
        """Upwards while it pays; the sentence why it ended."""
        growth = self.bench.growth
        while True:
            size = min(2 * self.size, growth.most)
            if size <= self.size:
                return "there are data for no larger one"
            need = growth.predicted(size)
            beside = need + growth.peaks[self.size]
            if need > growth.allowed:
                return f"{self._all(size)} was not tried: it would need up to {gib(need)}"
            if beside > self.bench.total:
                return (
                    f"{self._all(size)} was not tried: beside the size it is compared with it would need up to "
                    f"{gib(beside)} of {gib(self.bench.total)}"
                )
            ratio = self._step(size)
            if ratio is None:
                return f"{self._all(size)} could not be compared"
            if ratio < WORTH:
                return f"twice the batch ({self._all(size)}) gains less than {WORTH - 1:.0%}"
            self.gained = True

    def halve(self) -> str:
        """Downwards while it costs nothing; the sentence why it ended."""
        while self.size > 1:
            size = self.size // 2
            ratio = self._step(size)
            if ratio is None:
                return f"{self._all(size)} could not be compared"
            if ratio * WORTH < 1:
                return f"half of it ({self._all(size)}) is slower"
        return "no smaller one is there"

    def rows(self) -> list[Throughput]:
        """From the smallest size to the largest."""
        written = self.bench.ranks / self._seconds_per_sample
        peaks = self.bench.growth.peaks
        return [
            Throughput(self._all(size), written * found.ratio, found, peaks[size])
            for size, found in sorted(self.found.items())
        ]

    def _step(self, size: int) -> float | None:
        """Compare ``size`` with the current one; move there unless it is slower. None if it cannot be said."""
        bench = self.bench
        if not bench.in_time(size):
            return None
        candidate = bench.open(size)
        ran = bench.ran[-1]
        if candidate is None:
            self.say(_said(ran, bench.ranks))
            return None
        if ran.batch_size == self.size or ran.peak_memory > bench.growth.allowed:
            bench.close(candidate)
            return None
        slower = max(one.seconds for one in bench.ran if one.batch_size in (self.size, ran.batch_size))
        steps = max(1, min(MOST_STEPS, round(BLOCK_SECONDS / slower)))
        longest = max(3.0, min(LONGEST_COMPARISON * bench.budget, bench.laboratory.remaining))
        try:
            result = compare(self.trial, candidate, steps, time.monotonic() + longest, alpha=ALPHA, gain=WORTH)
        except TrialFailed as failed:
            bench.notes.append(f"{self._all(size)}: {failed}")
            return None
        if result.interval is None:
            bench.close(candidate)
            bench.complete = False
            bench.notes.append(f"{self._all(size)}: too few blocks in {longest:.0f} s; give a larger --budget")
            return None
        interval = combine([result.interval])  # processes differ by their luck with memory
        if len(self.found) == 1:
            self._seconds_per_sample = result.candidate_seconds * interval.ratio
        found = self.found[ran.batch_size] = _chained(self.found[self.size], interval)
        self.say(f"batch {self._all(ran.batch_size):,}: {factor(found)} the samples/s of the job's size")
        if interval.ratio * WORTH < 1 or (ran.batch_size > self.size and interval.ratio < WORTH):
            bench.close(candidate)
        else:
            bench.close(self.trial)
            self.trial, self.size = candidate, ran.batch_size
        return interval.ratio

    def _all(self, size: int) -> int:
        return size * self.bench.ranks


def _why_no_larger(bench: Bench) -> str:
    growth, ranks = bench.growth, bench.ranks
    largest, high = growth.largest, growth.too_large
    if largest == growth.most:
        return "there are data for no larger one"
    if high in growth.failed:
        why = next(one.why for one in bench.ran if one.batch_size == high)
        return f"{high * ranks:,} fails: {why}"
    if high in growth.peaks:
        return f"{high * ranks:,} uses {gib(growth.peaks[high])} of {gib(growth.allowed)}"
    if not bench.complete:
        return "larger ones were not tried"
    return f"{growth.beyond * ranks:,} would use about {gib(growth.predicted(growth.beyond))} of {gib(growth.allowed)}"


def _question(bench: Bench, began: float) -> Question:
    if bench.growth.largest and not bench.growth.peaks[bench.growth.largest]:
        bench.notes.append("peak memory cannot be read on this system, so sizes were run until one failed")
    return Question(
        job=bench.job.name,
        machine=str(bench.machine),
        date=Provenance.here(bench.machine).date,
        plan=dict(bench.plan.options),
        ranks=bench.ranks,
        written=bench.job.batch_size,
        allowed=bench.growth.allowed,
        complete=bench.complete,
        notes=tuple(bench.notes),
        seconds=time.monotonic() - began,
    )


def _said(ran: Ran, ranks: int) -> str:
    return f"batch {ran.batch_size * ranks:,}: {ran.why or gib(ran.peak_memory)}"


def _chained(first: Interval, second: Interval) -> Interval:
    """The product of two ratios; its interval holds when both do."""
    return Interval(
        first.ratio * second.ratio,
        first.low * second.low,
        first.high * second.high,
        first.n + second.n,
        first.confidence + second.confidence - 1,
    )
