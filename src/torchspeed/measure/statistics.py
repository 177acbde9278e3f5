"""Is the candidate faster than the incumbent? A test that may be looked at while the measurements come in.

Two processes take turns in short blocks on a machine that is never quiet, so what is compared is the pair: the log of
the ratio of two neighbouring blocks, from which slow drift has gone. What is left has heavy tails (somebody else's
burst makes a block take several times as long), so a mean and its standard deviation say little. All that is asked of
it here is symmetry: were both plans the same, either block would be the slow one as often.

**Within a pair of processes.** Signed ranks (Wilcoxon 1945) decide, and the interval is what they do not reject
(Hodges and Lehmann 1963), by the exact distribution for every n. Ranks above the smallest third count alike
(Winsorized scores, Policello and Hettmansperger 1976), or one outlier would outvote eight good pairs. A test that is
looked at again and again claims too much (Johari et al., "Always valid inference", 2022). So looks are few, each a
third later than the one before, and each has its share of ``alpha``: a twentieth for the first, which must be able to
decide with ten pairs, a hundredth for each of the others. That is a sixth of ``alpha``; the rest is held for blocks
that remember their predecessors: simulated, with an autocorrelation of 0.3 such looks err four times as often. Giving
up costs little (a gain of 1 % is missed), so a level of 0.2 is enough for it.

**Between processes.** A process draws its memory layout once and keeps it: no number of blocks averages that out
(Mytkowicz et al., "Producing wrong data without doing anything obviously wrong!", ASPLOS 2009; Curtsinger and Berger,
"Stabilizer", ASPLOS 2013). Standard deviation of the log of a step's time over fresh processes of the very same plan,
2 cores, PyTorch 2.13, 6 to 10 processes at a time:

| training step | between processes | within, per block of 50 ms |
|---|---|---|
| perceptron 64-128-10, batch 64, 1 thread | 0.000 to 0.012 | 0.03 to 0.06 |
| 2-convolution net, batch 64, 2 threads | 0.08 to 0.11 | 0.06 to 0.07 |
| the same, glibc kept from returning memory | 0.007 | 0.02 |

The convolutions differ by up to a third from fastest to slowest process, in the order of their page faults: 400 to
8 000 per step, as the heap happens to lie. So the allocator is to be decided first: with its thresholds fixed, all that
is compared afterwards is ten times as certain. And a decision needs several pairs of *fresh* processes, the highest
level of the experiment (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013): ``combine`` treats
the ratio of each as one observation, with Student's t over them, which holds for observations of unequal spread
(Bakirov and Székely 2006; Ibragimov and Müller 2010), and is never narrower than ``process_noise`` allows.

What can be believed: where processes differ by 0.01, four to five pairs find a gain of 5 %, and where they differ by
0.1, no affordable number does. A claim from fewer than four would rest on luck being as small as somebody says it is,
so ``decide`` makes none; it looks after the fourth, fifth, … pair, and has ``alpha`` shared out equally among them.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import NDArray

PROCESS_NOISE = 0.01
LEAST_PROCESS_PAIRS = 4
_FIRST_LOOK = 10
_LATER = 4 / 3
_FIRST_SHARE, _LATER_SHARE = 0.05, 0.01
_GIVE_UP_LEVEL = 0.2
_WINSORIZED_FROM = 1 / 3

Logs = NDArray[np.float64]


class Verdict(Enum):
    FASTER = "faster"
    NOT_FASTER = "not faster"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Interval:
    """incumbent's seconds ÷ candidate's: over 1, the candidate is faster. ``n``: pairs it was computed from."""

    ratio: float
    low: float
    high: float
    n: int
    confidence: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f}× [{self.low:.3f}, {self.high:.3f}] n={self.n}"


class Sequential:
    """One pair of processes, compared block by block until the verdict is there.

    least_gain: the smallest ratio worth having. alpha: how often a gain may be claimed where there is none.
    """

    def __init__(self, *, least_gain: float = 1.01, alpha: float = 0.02, most_pairs: int = 200) -> None:
        if not (least_gain >= 1 and 0 < alpha < 0.5 and most_pairs >= _FIRST_LOOK):
            raise ValueError(
                f"least_gain={least_gain} must be at least 1, alpha={alpha} between 0 and 0.5, "
                f"most_pairs={most_pairs} at least {_FIRST_LOOK}"
            )
        self.least_gain, self.alpha, self.most_pairs = least_gain, alpha, most_pairs
        self.verdict = Verdict.UNDECIDED
        self._logs: list[float] = []
        self._next_look = _FIRST_LOOK
        self._seen: Interval | None = None

    def add(self, incumbent_seconds: float, candidate_seconds: float) -> None:
        """Seconds of two neighbouring blocks of the same number of steps. A verdict, once given, stays."""
        for seconds in (incumbent_seconds, candidate_seconds):
            if not 0 < seconds < math.inf:
                raise ValueError(f"a block took {seconds} seconds; the clock cannot resolve it: make blocks longer")
        self._logs.append(math.log(incumbent_seconds / candidate_seconds))
        if len(self._logs) == self._next_look:
            self._look()

    @property
    def interval(self) -> Interval:
        """As of the last look, so that it is valid whenever it is read; without bounds before the first."""
        if self._seen is not None:
            return self._seen
        ratio = math.exp(_centre(np.array(self._logs))) if self._logs else 1.0
        return Interval(ratio, 0.0, math.inf, len(self._logs), 1 - 2 * self.alpha)

    @property
    def sentence(self) -> str:
        """The verdict and why."""
        seen = self.interval
        if self.verdict is Verdict.FASTER:
            return f"faster: {seen}"
        if self.verdict is Verdict.UNDECIDED:
            return f"undecided so far: {seen}"
        if seen.n >= self.most_pairs and seen.low <= 1 <= seen.high:
            return f"not faster: after {seen.n} pairs the interval still includes 1: {seen}"
        return f"not faster: a gain of {self.least_gain - 1:.1%} or more is unlikely: {seen}"

    def _look(self) -> None:
        logs = np.array(self._logs)
        count = len(logs)
        level = self.alpha * (_FIRST_SHARE if count == _FIRST_LOOK else _LATER_SHARE)
        centre, low, high = _centre(logs), _lower_bound(logs, level), -_lower_bound(-logs, level)
        self._seen = Interval(math.exp(centre), math.exp(low), math.exp(high), count, 1 - 2 * self.alpha)
        self._next_look = max(count + 1, min(int(count * _LATER), self.most_pairs))
        if self.verdict is not Verdict.UNDECIDED:
            return
        worthwhile = math.log(self.least_gain)
        if low > 0 and centre >= worthwhile:
            self.verdict = Verdict.FASTER
        elif -_lower_bound(-logs, _GIVE_UP_LEVEL) < worthwhile or count >= self.most_pairs:
            self.verdict = Verdict.NOT_FASTER


def combine(
    pairs: Sequence[Interval | Sequential], process_noise: float = PROCESS_NOISE, confidence: float = 0.96
) -> Interval:
    """The ratio over several pairs of fresh processes; ``n`` is their number.

    process_noise: the least that the log of a step's time is believed to vary (standard deviation) over processes of
        one plan. A single pair has nothing else to go by.
    """
    intervals = [pair.interval if isinstance(pair, Sequential) else pair for pair in pairs]
    if not intervals or process_noise < 0 or not 0 < confidence < 1:
        raise ValueError(
            f"{len(intervals)} pairs, process_noise={process_noise}, confidence={confidence}: out of range"
        )
    logs = [math.log(interval.ratio) for interval in intervals]
    count, centre, tail = len(logs), fmean(logs), (1 + confidence) / 2
    known = NormalDist().inv_cdf(tail) * process_noise * math.sqrt(2 / count)
    if count == 1:
        low, high = intervals[0].low * math.exp(-known), intervals[0].high * math.exp(known)
    else:
        half = max(known, _student_quantile(tail, count - 1) * stdev(logs) / math.sqrt(count))
        low, high = math.exp(centre - half), math.exp(centre + half)
    return Interval(math.exp(centre), low, high, count, confidence)


def decide(
    pairs: Sequence[Interval | Sequential],
    process_noise: float = PROCESS_NOISE,
    *,
    least_gain: float = 1.01,
    alpha: float = 0.02,
    most_process_pairs: int = 8,
) -> Verdict:
    """The verdict over pairs of fresh processes; ask after each, and start another pair while it is UNDECIDED.

    FASTER needs four of them; where there is no gain, it is said with a chance of at most ``alpha``. NOT_FASTER comes
    as soon as ``least_gain`` has become unlikely, often after one.
    """
    looks = most_process_pairs - LEAST_PROCESS_PAIRS + 1
    if looks < 1:
        raise ValueError(f"most_process_pairs={most_process_pairs}; a gain is not believed from fewer than four")
    whole = combine(pairs, process_noise, 1 - 2 * alpha / looks)
    if whole.n >= LEAST_PROCESS_PAIRS and whole.low > 1 and whole.ratio >= least_gain:
        return Verdict.FASTER
    doubtful = process_noise * NormalDist().inv_cdf(1 - _GIVE_UP_LEVEL) * math.sqrt(2 / whole.n)
    if whole.n >= 2:
        doubtful = max(doubtful, combine(pairs, 0.0, 1 - 2 * _GIVE_UP_LEVEL).high / whole.ratio - 1)
    if whole.ratio * math.exp(doubtful) < least_gain or whole.n >= most_process_pairs:
        return Verdict.NOT_FASTER
    return Verdict.UNDECIDED


def process_noise_of(block_seconds: Sequence[Sequence[float]]) -> float:
    """Standard deviation of the log of a step's time over processes of one plan, without the part that blocks explain.

    block_seconds: a row per round in which every process had one block of equal steps, a column per process.
    """
    logs = np.log(np.array(block_seconds, dtype=np.float64))
    if logs.ndim != 2 or min(logs.shape) < 2:
        raise ValueError(f"found blocks of shape {list(logs.shape)}; give at least two rounds of two processes")
    logs -= np.median(logs, axis=1, keepdims=True)
    medians = np.median(logs, axis=0)
    within = 1.4826 * np.median(np.abs(logs - medians))
    of_a_median = math.pi / 2 * within**2 / len(logs)
    return math.sqrt(max(0.0, float(medians.var(ddof=1)) - float(of_a_median)))


def _scores(count: int) -> NDArray[np.int64]:
    return np.minimum(np.arange(1, count + 1), math.ceil(count * _WINSORIZED_FROM))


def _negative_sum(logs: Logs) -> int:
    """The sum of scores of the negative ones, 0 where all are positive."""
    ranks = np.argsort(np.argsort(np.abs(logs)))
    return int(_scores(len(logs))[ranks][logs < 0].sum())


@functools.cache
def _distribution(count: int) -> Logs:
    """P(sum ≤ s) for s = 0, 1, …, when every sign is a fair coin: exact, by convolution."""
    chances = np.ones(1)
    for score in _scores(count).tolist():
        longer = np.zeros(len(chances) + score)
        longer[: len(chances)] += chances / 2
        longer[score:] += chances / 2
        chances = longer
    return np.cumsum(chances)


def _lower_bound(logs: Logs, level: float) -> float:
    """The centre is below it with a chance of at most ``level``; -inf where so few pairs cannot say."""
    most = int(np.searchsorted(_distribution(len(logs)), level * (1 + 1e-9), side="right")) - 1
    return -math.inf if most < 0 else _largest_shift(logs, most)


def _centre(logs: Logs) -> float:
    """Hodges and Lehmann's estimate: shifted by it, negative and positive scores balance."""
    half = int(_scores(len(logs)).sum()) // 2
    return (_largest_shift(logs, half) - _largest_shift(-logs, half)) / 2


def _largest_shift(logs: Logs, most: int) -> float:
    """How far ``logs`` can be moved down before their negative scores sum to more than ``most``.

    The sum grows with the shift, and only where a mean of two of them crosses zero.
    """
    first, second = np.triu_indices(len(logs))
    means = np.unique((logs[first] + logs[second]) / 2)
    below, above = 0, len(means)
    while above - below > 1:
        middle = (below + above) // 2
        if _negative_sum(logs - (means[middle - 1] + means[middle]) / 2) <= most:
            below = middle
        else:
            above = middle
    return float(means[below])


def _student_quantile(chance: float, freedom: int) -> float:
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < chance else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """P(T ≤ t) for t ≥ 0: the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 + inside) / 2
