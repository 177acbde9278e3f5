"""Every schedule follows its closed form, with and without warm-up, for each group, and resumes exactly."""

import copy
import json
import math
import pickle
from bisect import bisect_right

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from torchspeed.errors import JobError
from torchspeed.optim import SCHEDULES, WarmUp, advance, schedule

STEPS = 200
RATES = (0.1, 0.002)


def cosine(t: float, steps: float) -> float:
    return (1 + math.cos(math.pi * t / steps)) / 2


def restarts(t: int) -> float:
    start, period = 0, 20
    while t >= start + period:
        start, period = start + period, period * 2
    return cosine(t - start, period)


def one_cycle(t: int, steps: int) -> float:
    top = 0.25 * steps - 1
    if t <= top:
        return 1 + (1 / 25 - 1) * cosine(t, top)
    return 1 / 25e4 + (1 - 1 / 25e4) * cosine(t - top, steps - 1 - top)


def metric(t: int) -> float:
    """Falls for 40 steps, then stays: a plateau of patience 9 is cut after every ten more."""
    return float(max(0, 40 - t))


def plateau(t: int) -> float:
    return 0.5 ** (max(0, t - 41) // 10)


# name: (options for a run of n steps, factor on the rate at step t of n)
CASES = {
    "constant": (lambda n: {}, lambda t, n: 1.0),
    "step": (lambda n: {"step_size": 30, "gamma": 0.5}, lambda t, n: 0.5 ** (t // 30)),
    "multistep": (
        lambda n: {"milestones": [20, 90, 90], "gamma": 0.5},
        lambda t, n: 0.5 ** bisect_right([20, 90, 90], t),
    ),
    "exponential": (lambda n: {"gamma": 0.98}, lambda t, n: 0.98**t),
    "inverse_time": (lambda n: {"decay_rate": 0.05}, lambda t, n: 1 / (1 + 0.05 * t)),
    "polynomial": (lambda n: {"steps": n, "power": 2.0}, lambda t, n: (1 - t / n) ** 2),
    "cosine": (lambda n: {"steps": n}, cosine),
    "cosine_restarts": (lambda n: {"period": 20, "growth": 2}, lambda t, n: restarts(t)),
    "one_cycle": (lambda n: {"steps": n, "pct_start": 0.25}, one_cycle),
    "warmup_stable_decay": (
        lambda n: {"steps": n, "decay_steps": 50, "shape": "sqrt"},
        lambda t, n: 1 - math.sqrt(max(0, t - (n - 50)) / 50),
    ),
    "reduce_on_plateau": (lambda n: {"factor": 0.5, "patience": 9}, lambda t, n: plateau(t)),
}


def two_groups(rates=RATES) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates])


def rates_now(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def run(optimizer, scheduled, start: int, stop: int, warmup: int = 0) -> list[list[float]]:
    """The rates of the steps ``start`` to ``stop``; the metric's clock begins where the warm-up ends."""
    seen = []
    for t in range(start, stop):
        seen.append(rates_now(optimizer))
        optimizer.step()
        advance(scheduled, metric(t - warmup))
    return seen


def test_every_name_has_a_case():
    assert tuple(CASES) == SCHEDULES


@pytest.mark.parametrize("warmup", [0, 1, 25])
@pytest.mark.parametrize("name", SCHEDULES)
def test_200_steps_equal_the_closed_form(name, warmup):
    options, factor = CASES[name]
    optimizer = two_groups()
    scheduled = schedule(name, warmup_steps=warmup, **options(STEPS))(optimizer)
    for t, seen in enumerate(run(optimizer, scheduled, 0, STEPS, warmup)):
        climb = min(1.0, (t + 1) / (warmup + 1))
        expected = climb * factor(max(0, t - warmup), STEPS - warmup)
        assert seen == pytest.approx([rate * expected for rate in RATES], rel=1e-9, abs=1e-12), f"step {t}"


@pytest.mark.parametrize("name", SCHEDULES)
def test_after_the_warm_up_the_bits_are_those_without_one(name):
    options, _ = CASES[name]
    plain, warmed = two_groups(), two_groups()
    expected = run(plain, schedule(name, **options(STEPS))(plain), 0, STEPS)
    after = schedule(name, warmup_steps=25, **options(STEPS + 25))(warmed)
    assert run(warmed, after, 0, STEPS + 25, 25)[25:] == expected


@pytest.mark.parametrize("stop", [0, 3, 24, 25, 26, 27, 60, 120])
@pytest.mark.parametrize("warmup", [0, 25])
@pytest.mark.parametrize("name", SCHEDULES)
def test_loading_a_saved_state_goes_on_bit_for_bit(name, warmup, stop):
    factory = schedule(name, warmup_steps=warmup, **CASES[name][0](STEPS))
    optimizer = two_groups()
    expected = run(optimizer, factory(optimizer), 0, STEPS, warmup)

    optimizer = two_groups()
    scheduled = factory(optimizer)
    run(optimizer, scheduled, 0, stop, warmup)
    saved = copy.deepcopy((optimizer.state_dict(), scheduled.state_dict()))

    optimizer = two_groups()
    scheduled = factory(optimizer)
    kept = copy.deepcopy(saved)
    optimizer.load_state_dict(saved[0])
    scheduled.load_state_dict(saved[1])
    assert run(optimizer, scheduled, stop, STEPS, warmup) == expected[stop:]
    assert saved == kept, "loading must leave the saved state as it is"


def test_without_its_state_a_schedule_does_not_go_on():
    """The negative control of the test above."""
    optimizer = two_groups()
    factory = schedule("cosine", warmup_steps=25, steps=STEPS)
    expected = run(optimizer, factory(optimizer), 0, STEPS)
    optimizer = two_groups()
    run(optimizer, factory(optimizer), 0, 60)
    state = optimizer.state_dict()
    optimizer = two_groups()
    scheduled = factory(optimizer)
    optimizer.load_state_dict(state)
    assert run(optimizer, scheduled, 60, STEPS) != expected[60:]


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "multistep"])
def test_a_saved_state_survives_json(name):
    """Multi-step is left out: PyTorch keeps its milestones in a Counter with whole numbers as keys."""
    optimizer = two_groups()
    factory = schedule(name, warmup_steps=5, **CASES[name][0](STEPS))
    expected = run(optimizer, factory(optimizer), 0, STEPS, 5)
    optimizer = two_groups()
    scheduled = factory(optimizer)
    run(optimizer, scheduled, 0, 50, 5)
    state = json.loads(json.dumps(scheduled.state_dict()))
    rates = optimizer.state_dict()
    optimizer = two_groups()
    scheduled = factory(optimizer)
    optimizer.load_state_dict(rates)
    scheduled.load_state_dict(state)
    assert run(optimizer, scheduled, 50, STEPS, 5) == expected[50:]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_factory_is_a_value_that_survives_pickling(name):
    factory = schedule(name, warmup_steps=3, **CASES[name][0](STEPS))
    again = pickle.loads(pickle.dumps(factory))
    assert again == factory
    assert hash(again) == hash(factory)
    a, b = two_groups(), two_groups()
    assert run(a, factory(a), 0, 20) == run(b, again(b), 0, 20)


def test_the_learning_rate_may_be_a_tensor():
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=torch.tensor(0.1))
    rate = optimizer.param_groups[0]["lr"]
    scheduled = schedule("cosine", warmup_steps=3, steps=20)(optimizer)
    seen = []
    for _ in range(6):
        seen.append(rate.item())
        optimizer.step()
        scheduled.step()
    assert seen[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert seen[5] < seen[4] < 0.1
    assert optimizer.param_groups[0]["lr"] is rate


def test_pytorchs_sequential_schedule_gives_the_same_after_the_climb():
    ours, theirs = two_groups(), two_groups()
    scheduled = schedule("step", warmup_steps=10, step_size=7)(ours)
    climb = torch.optim.lr_scheduler.LambdaLR(theirs, lambda t: (t + 1) / 11)
    reference = SequentialLR(theirs, [climb, StepLR(theirs, 7)], [10])
    for t in range(100):
        assert rates_now(ours) == pytest.approx(rates_now(theirs)), f"step {t}"
        ours.step(), theirs.step()
        scheduled.step(), reference.step()


def test_the_last_rates_can_be_asked_for():
    optimizer = two_groups()
    scheduled = schedule("cosine", warmup_steps=3, steps=20)(optimizer)
    for _ in range(8):
        assert scheduled.get_last_lr() == rates_now(optimizer)
        optimizer.step()
        scheduled.step()


def test_a_plateau_schedule_warms_up_without_a_metric_and_moves_only_with_one():
    optimizer = two_groups((1.0,))
    scheduled = schedule("reduce_on_plateau", warmup_steps=3, patience=0, factor=0.5)(optimizer)
    assert isinstance(scheduled, WarmUp)
    for expected in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0):
        assert rates_now(optimizer) == [expected]
        optimizer.step()
        scheduled.step()
    scheduled.step(1.0)
    scheduled.step(1.0)
    assert rates_now(optimizer) == [0.5]


def test_without_warm_up_the_schedule_is_pytorchs_own():
    assert type(schedule("reduce_on_plateau")(two_groups())) is ReduceLROnPlateau
    assert type(schedule("one_cycle", steps=10)(two_groups())) is OneCycleLR


def test_one_cycle_leaves_the_momentum_alone_unless_asked():
    for asked, expected in (({}, 0.7), ({"cycle_momentum": True}, 0.95)):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1, momentum=0.7)
        schedule("one_cycle", steps=10, **asked)(optimizer)
        assert optimizer.param_groups[0]["momentum"] == expected


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("cosin", {}, "no schedule 'cosin'; .*constant, step, .*reduce_on_plateau"),
        (
            "cosine",
            {"steps": 5, "T_max": 5},
            "'cosine' has no option 'T_max'; .*warmup_steps, steps, eta_min",
        ),
        ("cosine", {}, "'cosine' needs the option 'steps'"),
        ("constant", {"gamma": 1}, "'constant' has no option 'gamma'"),
        ("cosine", {"steps": 5, "warmup_steps": 5}, "above warmup_steps"),
        ("cosine", {"steps": 5.0}, "steps is 5.0"),
        ("constant", {"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_when_written(name, options, says):
    with pytest.raises(JobError, match=says):
        schedule(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("warmup_stable_decay", {"steps": 10, "decay_steps": 11}, "decay_steps is 11"),
        ("warmup_stable_decay", {"steps": 10, "shape": "round"}, "linear, sqrt"),
        ("inverse_time", {"decay_rate": -1.0}, "decay_rate is -1"),
        ("one_cycle", {"steps": 10, "anneal_strategy": "round"}, "'one_cycle'.*anneal_strategy"),
        ("reduce_on_plateau", {"factor": 2.0}, "'reduce_on_plateau'.*[Ff]actor"),
    ],
)
def test_a_value_out_of_range_names_the_schedule(name, options, says):
    with pytest.raises(JobError, match=says):
        schedule(name, **options)(two_groups())
