"""Parts of a step, timed on real runs with sleeps of known length planted in them."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import tiny
import torchspeed
from torchspeed.engine.build import build
from torchspeed.machine import Machine
from torchspeed.measure.modules import time_modules
from torchspeed.measure.parts import StepFailed, measure_parts
from torchspeed.plan import Plan
from torchspeed.run import Run


class Slept(torch.autograd.Function):
    """Gives its input on after ``forward`` seconds, and the gradient after ``backward``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: float, backward: float) -> Tensor:
        ctx.seconds = backward
        time.sleep(forward)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        time.sleep(ctx.seconds)
        return gradients[0], None, None


class Sleeper(nn.Module):
    def __init__(self, forward: float = 0.0, backward: float = 0.0) -> None:
        super().__init__()
        self.seconds = forward, backward

    def forward(self, x: Tensor) -> Tensor:
        return Slept.apply(x, *self.seconds)  # type: ignore[no-any-return, no-untyped-call]


class SlowSamples(Dataset[Any]):
    def __init__(self, samples: int, seconds: float) -> None:
        self.samples, self.seconds = samples, seconds

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(self.seconds)
        return torch.full((6,), float(index)), index % 2


def slept(seconds: float, least: float) -> bool:
    """A sleep is never shorter than asked for, and on a busy machine it is longer."""
    return least <= seconds < 2 * least + 0.004


def made(**changes: Any) -> Run:
    return build(tiny.blobs_job(**changes), Plan(), Machine.detect("cpu"))


def sleeping(forward: float, backward: float) -> Run:
    return made(model=lambda: nn.Sequential(nn.Linear(6, 6), Sleeper(forward, backward), nn.Linear(6, 2)))


def test_time_is_found_in_the_part_where_it_is_spent() -> None:
    parts = measure_parts(sleeping(0.004, 0.008), steps=8).seconds
    assert slept(parts["forward"], 0.004)
    assert slept(parts["backward"], 0.008)
    assert parts["data"] + parts["optimizer"] + parts["other"] < 0.003


def test_waiting_for_samples_is_data() -> None:
    parts = measure_parts(made(train=SlowSamples(64, 0.001), batch_size=4), steps=8)
    assert slept(parts.seconds["data"], 0.004)
    assert parts.shares["data"] > 0.6


def test_parts_add_up_to_the_step_that_is_timed_without_them() -> None:
    """Within 5 %, in the best of three tries: another process may come in between."""
    differences = []
    for _ in range(3):
        parts = measure_parts(sleeping(0.008, 0.010), steps=12)
        assert sum(parts.seconds.values()) == pytest.approx(parts.step_seconds, rel=1e-9)
        assert parts.unmarked is not None
        differences.append(abs(sum(parts.seconds.values()) / parts.unmarked.median - 1))
        if differences[-1] < 0.05:
            return
    raise AssertionError(differences)


def test_a_wait_that_comes_every_fourth_step_counts_in_full() -> None:
    """Of which the median would be nothing."""

    class Bursts(SlowSamples):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index % 16 == 0:
                time.sleep(0.02)
            return torch.full((6,), float(index)), index % 2

    parts = measure_parts(made(train=Bursts(128, 0), batch_size=4, shuffle=False), steps=32)
    assert parts.seconds["data"] > 0.003
    assert parts.spread["data"].median < 0.001


def test_the_short_last_batch_of_an_epoch_is_not_counted() -> None:
    """3 batches of 8 and one of 1, each sample 1 ms."""
    parts = measure_parts(made(train=SlowSamples(25, 0.001), batch_size=8, shuffle=False), steps=9)
    assert parts.samples == 8
    assert parts.spread["data"].low > 0.008


def test_a_step_that_is_one_program_is_one_part() -> None:
    run = sleeping(0.002, 0.002)
    run.step_wrappers.append(lambda step: lambda batch: step(batch))
    parts = measure_parts(run, steps=4)
    assert set(parts.seconds) == {"data", "step", "other"}
    assert slept(parts.seconds["step"], 0.004)


def test_gradient_accumulation_adds_its_pieces_up() -> None:
    run = sleeping(0.002, 0.003)
    run.micro_batches = 3
    parts = measure_parts(run, steps=4)
    assert slept(parts.seconds["forward"], 0.006)
    assert slept(parts.seconds["backward"], 0.009)


def test_a_slow_first_step_is_warm_up() -> None:
    class Once(Sleeper):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.0 if hasattr(self, "warm") else 0.3)
            self.warm = True
            return x

    run = made(model=lambda: nn.Sequential(nn.Linear(6, 2), Once()))
    parts = measure_parts(run, steps=4)
    assert parts.warmup_seconds > 0.3
    assert parts.step_seconds < 0.1


def test_a_failing_step_says_which_and_keeps_what_was_measured() -> None:
    class Fails(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 7:
                raise RuntimeError("the seventh")
            return super().forward(x)

    with pytest.raises(StepFailed) as failed:
        measure_parts(made(model=lambda: Fails(6, 2)))
    assert failed.value.number == 7
    assert failed.value.parts is not None
    assert failed.value.parts.step_spread.n >= 1


def test_a_schedule_that_ends_with_the_job_does_not_end_the_measurement() -> None:
    job = tiny.blobs_job(
        epochs=1, schedule=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)
    )
    assert measure_parts(build(job, Plan(), Machine.detect("cpu")), steps=20).step_spread.n >= 20


class Block(nn.Module):
    """Work of its own around a child, and a child that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = Sleeper(0.004, 0.008)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(Slept.apply(self.slow(x), 0.002, 0.003))  # type: ignore[no-any-return, no-untyped-call]


def test_modules_are_timed_without_their_children_forward_and_backward() -> None:
    run = made(model=lambda: nn.Sequential(nn.Linear(6, 6), Block(), nn.Linear(6, 2)))
    times = {module.name: module for module in time_modules(run, seconds=0.1)}
    assert slept(times["1.slow"].forward, 0.004)
    assert slept(times["1.slow"].backward, 0.008)
    assert slept(times["1"].forward, 0.002)
    assert slept(times["1"].backward, 0.003)
    assert times["0"].total < 0.002
    assert not any(module._forward_hooks for module in run.model.modules())


def test_a_module_that_runs_again_for_its_backward_pass_is_timed_there() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(Sleeper(0.004, 0.0), nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)  # type: ignore[no-any-return]

    run = made(model=lambda: nn.Sequential(nn.Linear(6, 6), Checkpointed(), nn.Linear(6, 2)))
    slow = next(module for module in time_modules(run, seconds=0.1) if module.name == "1.body.0")
    assert slept(slow.forward, 0.004)
    assert slept(slow.backward, 0.004)


def test_modules_of_a_compiled_model_are_not_told_apart() -> None:
    run = made()
    run.model = torch.compile(run.model, backend="eager")
    with pytest.raises(torchspeed.errors.NotApplicable, match="compiled"):
        time_modules(run)
