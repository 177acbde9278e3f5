"""Two live trials against each other, in interleaved blocks, until the interval of the ratio decides.

The first steps of a candidate count against it only: what is fast because it is new (a cache that fills up, work that
is put off) must still be fast after ``SETTLED`` steps, so only blocks after those can show a gain.
"""

import math
import time
from dataclasses import dataclass

from torchspeed.measure.statistics import Interval, Sequential, Verdict
from torchspeed.tuning.trial import Trial

SETTLED = 30
BLOCK_SECONDS = 0.25
FEW_PAIRS = 10
_PATIENCE = 20.0


@dataclass(frozen=True)
class Comparison:
    """``interval`` of seconds of the incumbent ÷ seconds of the candidate, None from too few pairs, and whether that is
    faster.

    undecided: time was up before the interval decided.
    """

    interval: Interval | None
    faster: bool
    undecided: bool
    candidate_seconds: float


def steps_per_block(step_seconds: float) -> int:
    """Steps of a block that is long enough to be timed well and short enough to be repeated often."""
    return max(1, min(2_000, round(BLOCK_SECONDS / step_seconds)))


def compare(
    incumbent: Trial, candidate: Trial, steps: int, deadline: float, *, alpha: float, gain: float
) -> Comparison:
    """Blocks of ``steps`` steps in the order A B B A …; ``deadline`` by ``time.monotonic``. Raises TrialFailed."""
    early = Sequential(alpha=alpha, least_gain=gain)
    settled = Sequential(alpha=alpha, least_gain=gain)
    seconds: list[float] = []
    turn = 0
    while True:
        is_settled = candidate.steps >= SETTLED
        pair = [incumbent, candidate] if turn % 2 == 0 else [candidate, incumbent]
        timed = {id(trial): trial.block(steps, _timeout(deadline)) for trial in pair}
        ours, theirs = timed[id(incumbent)].seconds_per_sample, timed[id(candidate)].seconds_per_sample
        seconds.append(theirs)
        test = settled if is_settled else early
        test.add(ours, theirs)
        turn += 1
        late = time.monotonic() >= deadline + (0 if turn >= FEW_PAIRS else _PATIENCE)
        if test.verdict is Verdict.NOT_FASTER or (is_settled and test.verdict is Verdict.FASTER) or late:
            faster = is_settled and test.verdict is Verdict.FASTER
            undecided = late and test.verdict is Verdict.UNDECIDED
            return Comparison(_known(test), faster, undecided, sorted(seconds)[len(seconds) // 2])


def compare_briefly(incumbent: Trial, candidate: Trial, steps: int, deadline: float) -> Interval | None:
    """The ratio of one more pair of processes, from as few blocks as give an interval; None if there was no time."""
    test = Sequential()
    for turn in range(FEW_PAIRS):
        pair = [incumbent, candidate] if turn % 2 == 0 else [candidate, incumbent]
        timed = {id(trial): trial.block(steps, _timeout(deadline)).seconds_per_sample for trial in pair}
        test.add(timed[id(incumbent)], timed[id(candidate)])
    return _known(test)


def compare_evaluations(
    incumbent: Trial, candidate: Trial, weights: str, deadline: float, *, alpha: float, gain: float
) -> tuple[Comparison, dict[str, float], dict[str, float]]:
    """The same for whole evaluations at equal weights; also what they gave, the incumbent's and the candidate's."""
    test = Sequential(alpha=alpha, least_gain=gain)
    answers: dict[int, dict[str, float]] = {}
    seconds: list[float] = []
    turn = 0
    while True:
        pair = [incumbent, candidate] if turn % 2 == 0 else [candidate, incumbent]
        for trial in pair:
            answers[id(trial)] = trial.ask("evaluation", _timeout(deadline), weights=weights)
        ours, theirs = answers[id(incumbent)], answers[id(candidate)]
        seconds.append(theirs["seconds"])
        if turn:  # the first of each is a warm-up
            test.add(ours["seconds"], theirs["seconds"])
        turn += 1
        late = time.monotonic() >= deadline + (0 if turn > FEW_PAIRS else _PATIENCE)
        if late or test.verdict is not Verdict.UNDECIDED:
            undecided = late and test.verdict is Verdict.UNDECIDED
            middle = sorted(seconds)[len(seconds) // 2]
            return Comparison(_known(test), test.verdict is Verdict.FASTER, undecided, middle), ours, theirs


def _known(test: Sequential) -> Interval | None:
    return test.interval if math.isfinite(test.interval.high) else None


def _timeout(deadline: float) -> float:
    """A block that takes much longer than all the time there is hangs."""
    return max(0.0, deadline - time.monotonic()) + _PATIENCE
