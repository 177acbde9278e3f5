"""How often the comparison is wrong, how often it finds what is there, and how soon: by simulation, seeds fixed."""

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from torchspeed.measure.statistics import (
    Interval,
    Sequential,
    Verdict,
    _distribution,
    _scores,
    _student_quantile,
    combine,
    decide,
    process_noise_of,
)

PAIRS = 200


def block_seconds(
    rng: np.random.Generator, gain: float, noise: float, memory: float, outliers: float
) -> NDArray[np.float64]:
    """[PAIRS, 2], incumbent and candidate: slow drift in common, differences that remember their predecessors (AR(1)),
    and blocks that take two to five times as long."""
    drift = np.cumsum(rng.normal(0, 0.01, PAIRS))
    difference = rng.standard_normal(PAIRS)
    for i in range(1, PAIRS):
        difference[i] = memory * difference[i - 1] + math.sqrt(1 - memory**2) * difference[i]
    difference *= noise * math.sqrt(2)
    logs = np.stack([drift + difference / 2, drift - difference / 2 - math.log(gain)], axis=1)
    logs += (rng.random((PAIRS, 2)) < outliers) * np.log(rng.uniform(2, 5, (PAIRS, 2)))
    return np.exp(logs)


def compare(
    rng: np.random.Generator, gain: float, noise: float = 0.03, memory: float = 0.0, outliers: float = 0.05
) -> Sequential:
    comparison = Sequential(most_pairs=PAIRS)
    for incumbent, candidate in block_seconds(rng, gain, noise, memory, outliers):
        comparison.add(incumbent, candidate)
        if comparison.verdict is not Verdict.UNDECIDED:
            break
    return comparison


@pytest.mark.parametrize(("noise", "memory"), [(0.03, 0.0), (0.03, 0.3), (0.1, 0.3)])
def test_of_two_equal_processes_one_is_seldom_called_faster(noise: float, memory: float) -> None:
    rng = np.random.default_rng(0)
    verdicts = [compare(rng, 1.0, noise, memory).verdict for _ in range(300)]
    assert verdicts.count(Verdict.FASTER) <= 6
    assert verdicts.count(Verdict.UNDECIDED) == 0


def test_a_gain_of_5_percent_is_found_within_60_pairs() -> None:
    rng = np.random.default_rng(1)
    found = [compare(rng, 1.05) for _ in range(100)]
    assert sum(one.verdict is Verdict.FASTER and one.interval.n <= 60 for one in found) >= 95
    assert np.mean([one.interval.low <= 1.05 <= one.interval.high for one in found]) >= 0.96


def test_a_gain_of_20_percent_is_seen_in_10_pairs() -> None:
    rng = np.random.default_rng(2)
    found = [compare(rng, 1.2, outliers=0.0) for _ in range(50)]
    assert all(one.verdict is Verdict.FASTER for one in found)
    assert np.mean([one.interval.n for one in found]) <= 10


def test_a_loss_of_5_percent_is_rejected_in_12_pairs() -> None:
    rng = np.random.default_rng(3)
    found = [compare(rng, 0.95, memory=0.3) for _ in range(100)]
    assert all(one.verdict is Verdict.NOT_FASTER for one in found)
    assert np.mean([one.interval.n for one in found]) <= 12


@pytest.mark.parametrize("count", [3, 9])
def test_the_distribution_is_that_of_all_signs(count: int) -> None:
    scores = _scores(count)
    sums = [int(scores[list(signs)].sum()) for signs in product([False, True], repeat=count)]
    counted = np.cumsum(np.bincount(sums)) / 2**count
    assert _distribution(count) == pytest.approx(counted)


def test_one_outlier_hardly_moves_the_interval() -> None:
    def after(last: float) -> Interval:
        comparison = Sequential(most_pairs=30)
        for k in range(29):
            comparison.add(1.1 + 0.001 * k, 1.0)
        comparison.add(last, 1.0)
        return comparison.interval

    assert after(0.2).n == 30
    assert after(0.2).ratio == pytest.approx(after(1.1).ratio, rel=0.002)


def test_there_is_no_bound_before_the_first_look() -> None:
    comparison = Sequential()
    assert comparison.interval == Interval(1.0, 0.0, math.inf, 0, 0.96)
    for _ in range(9):
        comparison.add(1.3, 1.0)
    assert comparison.verdict is Verdict.UNDECIDED
    assert (comparison.interval.low, comparison.interval.high) == (0.0, math.inf)
    comparison.add(1.3, 1.0)
    assert comparison.verdict is Verdict.FASTER
    assert comparison.interval.low == pytest.approx(1.3)


def test_what_stays_undecided_is_not_faster_and_says_so() -> None:
    comparison = Sequential(most_pairs=12)
    for pair in [(1.2, 1.0), (1.0, 1.15)] * 6:
        comparison.add(*pair)
    assert comparison.verdict is Verdict.NOT_FASTER
    assert "the interval still includes 1" in comparison.sentence


def of_ratio(ratio: float) -> Interval:
    return Interval(ratio, ratio * 0.99, ratio * 1.01, 20, 0.96)


def lucky_pairs(rng: np.random.Generator, gain: float, luck: float) -> Verdict:
    """Fresh pairs of processes until there is a verdict; ``luck``: what each process draws once."""
    pairs: list[Interval] = []
    verdict = Verdict.UNDECIDED
    while verdict is Verdict.UNDECIDED:
        pairs.append(of_ratio(gain * math.exp(luck * (rng.standard_normal() - rng.standard_normal()))))
        verdict = decide(pairs)
    return verdict


@pytest.mark.parametrize("luck", [0.01, 0.03, 0.1])
def test_the_luck_of_processes_is_not_taken_for_a_gain(luck: float) -> None:
    """Also where it is ten times what was expected."""
    rng = np.random.default_rng(4)
    assert [lucky_pairs(rng, 1.0, luck) for _ in range(500)].count(Verdict.FASTER) <= 10


def test_a_gain_of_5_percent_is_found_through_the_luck_of_processes() -> None:
    rng = np.random.default_rng(5)
    assert [lucky_pairs(rng, 1.05, 0.01) for _ in range(200)].count(Verdict.FASTER) >= 190


def test_fewer_than_four_pairs_of_processes_make_no_claim() -> None:
    assert decide([of_ratio(1.5)] * 3) is Verdict.UNDECIDED
    assert decide([of_ratio(1.5)] * 4) is Verdict.FASTER


def test_a_clear_loss_needs_one_pair_of_processes() -> None:
    assert decide([of_ratio(0.9)]) is Verdict.NOT_FASTER


def test_pairs_that_disagree_widen_the_interval_and_agreeing_ones_stop_at_the_noise() -> None:
    agreeing, disagreeing = [of_ratio(1.1)] * 4, [of_ratio(ratio) for ratio in (1.0, 1.05, 1.15, 1.21)]
    known = math.log(combine(agreeing, 0.01).high / 1.1)
    assert known == pytest.approx(2.054 * 0.01 * math.sqrt(2 / 4), rel=1e-3)
    assert combine(disagreeing, 0.01).low < 1 < combine(agreeing, 0.01).low
    assert combine(agreeing[:1], 0.01).low < agreeing[0].low


@pytest.mark.parametrize(
    ("chance", "freedom", "tabulated"), [(0.98, 1, 15.895), (0.99, 3, 4.541), (0.99, 4, 3.747), (0.975, 8, 2.306)]
)
def test_students_quantiles_are_those_of_the_tables(chance: float, freedom: int, tabulated: float) -> None:
    assert _student_quantile(chance, freedom) == pytest.approx(tabulated, abs=1e-3)


@pytest.mark.parametrize("luck", [0.0, 0.05])
def test_the_noise_of_processes_is_told_from_that_of_blocks(luck: float) -> None:
    rng = np.random.default_rng(6)
    seconds = np.exp(luck * rng.standard_normal(10) + rng.normal(0, 0.03, (30, 10)) + rng.normal(0, 0.2, (30, 1)))
    assert process_noise_of(seconds.tolist()) == pytest.approx(luck, abs=0.02)


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(ValueError, match="make blocks longer"):
        Sequential().add(0.0, 1.0)
    with pytest.raises(ValueError, match="most_pairs=3"):
        Sequential(most_pairs=3)
    with pytest.raises(ValueError, match="0 pairs"):
        combine([])
    with pytest.raises(ValueError, match="at least two rounds"):
        process_noise_of([[1.0, 1.0]])
