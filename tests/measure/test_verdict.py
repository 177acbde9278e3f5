"""The verdict from figures: pure functions, so the figures here are made up to be easy to check by hand."""

from dataclasses import replace

import pytest

from torchspeed.facts import Facts
from torchspeed.lever import Bound
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine
from torchspeed.measure.limits import Limits
from torchspeed.measure.suggest import suggestions
from torchspeed.measure.verdict import bounds, floors, verdict
from torchspeed.measure.work import StepWork, Work
from torchspeed.plan import Plan

# 1 TFLOP/s, 1 GB/s, 2 GB/s to the device, 10 µs per operation.
LIMITS = Limits((("float32", 1e12), ("bfloat16", 4e12)), 1e9, (), 2e9, None, 10e-6, 1, "2025-01-01")
# Forward: 1 GFLOP (1 ms). Backward: 2 GFLOP (2 ms). Update: 1 MB (1 ms).
WORK = StepWork(
    Work((("float32", 1e9, 1e3, 1),)), Work((("float32", 2e9, 1e3, 1),)), Work((("float32", 0.0, 1e6, 1),)), ()
)
PARTS = {"data": 0.002, "transfer": 0.001, "forward": 0.003, "backward": 0.005, "optimizer": 0.004, "other": 0.001}
CPU = Machine.detect("cpu")


def many(operations: int) -> StepWork:
    return replace(WORK, forward=Work((("float32", 1e9, 1e3, 1), ("float32", 0.0, 0.0, operations))))


def test_the_floor_is_the_work_at_the_measured_rates() -> None:
    least = floors(PARTS, WORK, LIMITS, transfer_bytes=1_000_000)
    wanted = {"data": 0, "transfer": 0.0005, "forward": 0.001, "backward": 0.002, "optimizer": 0.001, "other": 0}
    assert least == pytest.approx(wanted)


def test_no_floor_is_above_what_was_measured() -> None:
    assert floors({**PARTS, "forward": 0.0004}, WORK, LIMITS, 0)["forward"] == 0.0004


def test_a_batch_that_is_on_the_device_takes_no_transfer() -> None:
    assert floors(PARTS, WORK, replace(LIMITS, host_to_device=None), 1_000_000)["transfer"] == 0
    assert floors(PARTS, WORK, LIMITS, 0)["transfer"] == 0


def test_a_step_that_is_one_program_has_the_floor_of_all_its_work() -> None:
    assert floors({"data": 0.0, "step": 0.1, "other": 0.0}, WORK, LIMITS, 0)["step"] == pytest.approx(0.004)


def test_work_that_could_not_be_counted_has_no_floor() -> None:
    assert floors(PARTS, None, LIMITS, 0) == {"data": 0, "transfer": 0, "other": 0}


def test_a_bound_is_the_step_over_the_step_with_that_part_at_its_floor() -> None:
    found = bounds(PARTS, floors(PARTS, WORK, LIMITS, 0))
    assert found["data"] == pytest.approx(16 / 14)
    assert found["backward"] == pytest.approx(16 / 13)
    assert found["other"] == pytest.approx(16 / 15)


@pytest.mark.parametrize(
    ("changes", "work", "bound", "because"),
    [
        ({"data": 0.02}, WORK, Bound.DATA, "waiting for data is 59 % of a step"),
        ({"transfer": 0.02}, WORK, Bound.TRANSFER, "copying batches to the device is 57 % of a step"),
        ({}, WORK, Bound.COMPUTE, "3 GFLOP of products at the measured rate take 3.00 of the 12.0 ms"),
        ({}, None, Bound.COMPUTE, "their work is not known"),
        ({}, replace(WORK, optimizer=Work((("", 0.0, 9e6, 1),))), Bound.MEMORY, "moving 9 MB at the measured"),
        ({}, many(900), Bound.OVERHEAD, "starting 903 operations takes 9.03 of the 12.0 ms"),
    ],
)
def test_the_verdict_is_what_takes_most(
    changes: dict[str, float], work: StepWork | None, bound: Bound, because: str
) -> None:
    found = verdict({**PARTS, **changes}, work, LIMITS)
    assert found.bound is bound
    assert because in found.because


def test_the_largest_of_three_limits_names_the_bound() -> None:
    """However little of the time it explains: that it explains little is said."""
    assert verdict(PARTS, many(1), LIMITS).bound is Bound.COMPUTE
    found = verdict(PARTS, many(100_000), LIMITS)
    assert found.bound is Bound.OVERHEAD


def test_kernels_far_from_their_limit_are_said_to_be() -> None:
    assert verdict(PARTS, WORK, LIMITS).because.endswith(
        "the kernels take 3.0× what the limits explain: see the modules"
    )


def test_what_is_suggested_moves_the_bound_and_applies() -> None:
    facts = Facts(layers=frozenset({"Linear"}), optimizer="Adam", parameters=1000, batch_size=64)
    found = suggestions({Bound.COMPUTE}, Plan(), facts, CPU)
    assert found
    for suggestion in found:
        lever = REGISTRY[suggestion.lever]
        assert Bound.COMPUTE in lever.moves
        for option in suggestion.options:
            lever.check(facts, CPU, option)
        assert suggestion.what.endswith((".", "?"))
    assert "memory_format" not in [suggestion.lever for suggestion in found]  # no convolution
    with_convolution = replace(facts, layers=frozenset({"Conv2d"}))
    assert "memory_format" in [s.lever for s in suggestions({Bound.COMPUTE}, Plan(), with_convolution, CPU)]


def test_what_the_plan_has_is_not_suggested_again() -> None:
    names = [s.lever for s in suggestions({Bound.OVERHEAD}, Plan(), Facts(), CPU)]
    assert "threads" in names
    assert "threads" not in [s.lever for s in suggestions({Bound.OVERHEAD}, Plan.of(threads=1), Facts(), CPU)]


def test_off_is_nothing_to_try_first() -> None:
    workers = next(s for s in suggestions({Bound.DATA}, Plan(), Facts(), CPU) if s.lever == "loader_workers")
    assert str(workers) == "--set loader_workers=1"
