"""Two live trials against each other, in interleaved blocks, until the interval of the ratio decides.

The first steps of a candidate count against it only: what is fast because it is new (a cache that fills up, work that
is put off) must still be fast after ``SETTLED`` steps, so only blocks after those can show a gain.
"""

import time
from dataclasses import dataclass

from torchspeed.measure.statistics import Interval, Sequential, Verdict
from torchspeed.tuning.trial import Trial

SETTLED = 30
BLOCK_SECONDS = 0.25
_PATIENCE = 20.0


@dataclass(frozen=True)
class Comparison:
    """``interval`` of seconds of the incumbent ÷ seconds of the candidate, and whether that is faster.

    undecided: time was up before the interval decided.
    """

    interval: Interval
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
        late = time.monotonic() >= deadline
        if test.verdict is Verdict.NOT_FASTER or (is_settled and test.verdict is Verdict.FASTER) or late:
            faster = is_settled and test.verdict is Verdict.FASTER
            undecided = late and test.verdict is Verdict.UNDECIDED
            return Comparison(test.interval, faster, undecided, sorted(seconds)[len(seconds) // 2])


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
        late = time.monotonic() >= deadline
        if late or test.verdict is not Verdict.UNDECIDED:
            undecided = late and test.verdict is Verdict.UNDECIDED
            middle = sorted(seconds)[len(seconds) // 2]
            return Comparison(test.interval, test.verdict is Verdict.FASTER, undecided, middle), ours, theirs


def _timeout(deadline: float) -> float:
    """A block that takes much longer than all the time there is hangs."""
    return max(0.0, deadline - time.monotonic()) + _PATIENCE
