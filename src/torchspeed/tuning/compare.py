"""Two live trials against each other, in interleaved blocks, until the interval of the ratio decides.

What is fast because it is new (a cache that fills up, work that is put off) must still be fast later: a gain is only
believed if blocks after the first ``SETTLED`` steps of the candidate show at least half of it.
"""

import math
import time
from dataclasses import dataclass
from statistics import median

from torchspeed.measure.statistics import Interval, Sequential, Verdict
from torchspeed.tuning.trial import Trial

SETTLED = 30
BLOCK_SECONDS = 0.15
FEW_PAIRS = 10
MOST_PAIRS = 60
LATE_PAIRS = 4
LONGER, CLEARLY = 30, 0.95
_PATIENCE = 60.0


@dataclass(frozen=True)
class Comparison:
    """``interval`` of seconds of the incumbent ÷ seconds of the candidate, None from too few pairs, and whether that is
    faster.

    undecided: time was up before the interval decided. faded: it was faster at first and then no longer.
    candidate_seconds: per sample.
    """

    interval: Interval | None
    faster: bool
    candidate_seconds: float
    undecided: bool = False
    faded: bool = False


def steps_per_block(step_seconds: float) -> int:
    """Steps of a block that is long enough to be timed well and short enough to be repeated often."""
    return max(1, min(2_000, round(BLOCK_SECONDS / step_seconds)))


class _Pairs:
    """Takes pairs of blocks, the one or the other first in turn."""

    def __init__(self, incumbent: Trial, candidate: Trial, steps: int, deadline: float) -> None:
        self.incumbent, self.candidate, self.steps, self.deadline = incumbent, candidate, steps, deadline
        self.seconds: list[float] = []
        self.late: list[float] = []

    def take(self) -> tuple[float, float]:
        """Seconds per sample of the incumbent and of the candidate."""
        settled = self.candidate.steps >= SETTLED
        pair = [self.incumbent, self.candidate]
        timed = {
            id(trial): trial.block(self.steps, _timeout(self.deadline)).seconds_per_sample
            for trial in (pair if len(self.seconds) % 2 == 0 else reversed(pair))
        }
        ours, theirs = timed[id(self.incumbent)], timed[id(self.candidate)]
        self.seconds.append(theirs)
        if settled:
            self.late.append(math.log(ours / theirs))
        return ours, theirs

    def lasts(self, ratio: float) -> bool:
        """Whether blocks after the first steps show at least half of the gain."""
        while self.candidate.steps < SETTLED:
            self.candidate.block(self.steps, _timeout(self.deadline))
        while len(self.late) < LATE_PAIRS:
            self.take()
        return median(self.late) >= 0.5 * math.log(ratio)


def compare(
    incumbent: Trial, candidate: Trial, steps: int, deadline: float, *, alpha: float, gain: float, sure: float = 1.0
) -> Comparison:
    """Blocks of ``steps`` steps in the order A B B A …; ``deadline`` by ``time.monotonic``. Raises TrialFailed.

    sure: what is faster and seems to be by more than this factor is measured on, up to ``LONGER`` pairs, until the
    interval says so as well.
    """
    test = Sequential(alpha=alpha, least_gain=gain, most_pairs=MOST_PAIRS)
    pairs = _Pairs(incumbent, candidate, steps, deadline)
    while test.verdict is Verdict.UNDECIDED:
        test.add(*pairs.take())
        if _is_late(deadline, len(pairs.seconds)):
            break
    while test.verdict is Verdict.FASTER and test.interval.low < sure < CLEARLY * test.interval.ratio:
        if len(pairs.seconds) >= LONGER or _is_late(deadline, len(pairs.seconds)):
            break
        test.add(*pairs.take())
    seconds = median(pairs.seconds)
    if test.verdict is not Verdict.FASTER:
        return Comparison(_known(test), False, seconds, undecided=test.verdict is Verdict.UNDECIDED)
    lasts = pairs.lasts(test.interval.ratio)
    return Comparison(test.interval, lasts, seconds, faded=not lasts)


def compare_briefly(incumbent: Trial, candidate: Trial, steps: int, deadline: float) -> Interval | None:
    """The ratio of one more pair of processes, from as few blocks as give an interval."""
    test = Sequential()
    pairs = _Pairs(incumbent, candidate, steps, deadline)
    for _ in range(FEW_PAIRS):
        test.add(*pairs.take())
    return _known(test)


def compare_evaluations(
    incumbent: Trial, candidate: Trial, weights: str, deadline: float, *, alpha: float, gain: float
) -> tuple[Comparison, dict[str, float], dict[str, float]]:
    """The same for whole evaluations at equal weights; also what they gave, the incumbent's and the candidate's."""
    test = Sequential(alpha=alpha, least_gain=gain, most_pairs=MOST_PAIRS)
    seconds: list[float] = []
    while True:
        pair = [incumbent, candidate] if len(seconds) % 2 == 0 else [candidate, incumbent]
        answers = {id(trial): trial.ask("evaluation", _timeout(deadline), weights=weights) for trial in pair}
        ours, theirs = answers[id(incumbent)], answers[id(candidate)]
        seconds.append(theirs["seconds"])
        if len(seconds) > 1:  # the first of each is a warm-up
            test.add(ours["seconds"], theirs["seconds"])
        if test.verdict is not Verdict.UNDECIDED or _is_late(deadline, len(seconds)):
            undecided = test.verdict is Verdict.UNDECIDED
            faster = test.verdict is Verdict.FASTER
            return Comparison(_known(test), faster, median(seconds), undecided=undecided), ours, theirs


def _is_late(deadline: float, pairs: int) -> bool:
    """Time is up; the pairs that a first interval needs may take a little longer."""
    return time.monotonic() >= deadline + (0 if pairs >= FEW_PAIRS else _PATIENCE)


def _known(test: Sequential) -> Interval | None:
    return test.interval if math.isfinite(test.interval.high) else None


def _timeout(deadline: float) -> float:
    """A block that takes much longer than all the time there is hangs."""
    return max(0.0, deadline - time.monotonic()) + _PATIENCE
