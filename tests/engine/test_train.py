"""``train`` trains, evaluates, stops at the goal, and leaves a run directory that says what happened."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchspeed
from tiny import Noisy, blobs_job, noisy_job
from torchspeed.engine.events import Evaluated, Event, StepLogged
from torchspeed.errors import DivergedError, RunDirectoryError

RESULT_KEYS = {
    "metric", "value", "goal", "goal_reached", "seconds", "seconds_to_goal", "steps", "samples_per_second", "machine",
    "versions",
}  # fmt: skip


class Collect:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.events.append(None)  # type: ignore[arg-type]


def train(job: torchspeed.Job, folder: Path, **options: Any) -> torchspeed.Result:
    return torchspeed.train(job, run_dir=folder / "run", progress=False, device="cpu", **options)


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    result = train(blobs_job(epochs=10), tmp_path)
    assert result.value is not None
    assert result.value >= 0.9
    assert result.goal_reached
    assert result.steps == 80
    assert 0 < result.seconds_to_goal <= result.seconds  # type: ignore[operator]
    on_disk = json.loads((tmp_path / "run" / "result.json").read_text())
    assert on_disk.keys() >= RESULT_KEYS
    assert on_disk["value"] == result.value
    assert not result.model.training


def test_the_run_directory_holds_job_plan_metrics_and_checkpoints(tmp_path: Path) -> None:
    train(blobs_job(), tmp_path, plan=torchspeed.Plan.of(optimizer_impl="foreach"), log_every=8)
    names = {path.name for path in (tmp_path / "run").iterdir()} - {"tensorboard"}
    assert names == {"job.json", "plan.toml", "metrics.jsonl", "checkpoints", "result.json"}
    assert torchspeed.Plan.read(tmp_path / "run" / "plan.toml") == torchspeed.Plan.of(optimizer_impl="foreach")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [8, 16, 24, 32, 40, 48]
    assert [line["epoch"] for line in lines if line["event"] == "evaluation"] == [1, 2, 3, 4, 5, 6]


def test_the_losses_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """The engine adds nothing to the arithmetic: same order of samples, same bits."""
    job = blobs_job(epochs=2)
    sink = Collect()
    train(job, tmp_path, sinks=[sink], log_every=1)
    ours = [event.loss for event in sink.events if isinstance(event, StepLogged)]

    inputs, labels = job.train  # type: ignore[misc]
    torch.manual_seed(job.seed)
    model = job.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    theirs = []
    for epoch in range(2):
        order = torch.from_numpy(torchspeed.data.random.permutation(job.seed, epoch, len(inputs)))
        for rows in order.split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            theirs.append(loss.item())
    assert ours == theirs


def test_a_fraction_of_an_epoch_and_its_last_evaluation(tmp_path: Path) -> None:
    sink = Collect()
    result = train(blobs_job(epochs=1.5), tmp_path, sinks=[sink])
    assert result.steps == 12
    assert [event.step for event in sink.events if isinstance(event, Evaluated)] == [8, 12]


def test_it_stops_at_the_goal_when_asked(tmp_path: Path) -> None:
    goal = torchspeed.Goal("accuracy", at_least=0.8)
    result = train(blobs_job(epochs=50, goal=goal, stop_at_goal=True), tmp_path)
    assert result.goal_reached
    assert result.steps < 50 * 8


def test_sinks_are_closed_even_after_an_error(tmp_path: Path) -> None:
    sink = Collect()
    with pytest.raises(DivergedError, match=r"the loss is nan at step \d+; .* Lower the learning rate"):
        train(blobs_job(optimizer=_exploding, epochs=20), tmp_path, sinks=[sink], log_every=3)
    assert sink.events[-1] is None


def _exploding(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1e30)


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    def sgd(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=1.0)

    job = blobs_job(optimizer=sgd, clip_grad_norm=1e-3, epochs=0.01, goal=None)
    torch.manual_seed(job.seed)
    before = [p.detach() for p in job.model().parameters()]
    after = [p.detach() for p in train(job, tmp_path).model.parameters()]
    moved = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(after, before, strict=True)))
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("pieces", [2, 4, 32])
def test_accumulation_gives_the_same_training_up_to_rounding(tmp_path: Path, pieces: int) -> None:
    whole = train(blobs_job(), tmp_path / "whole")
    cut = train(blobs_job(), tmp_path / "cut", plan=torchspeed.Plan.of(gradient_accumulation=pieces))
    assert cut.applied == (f"gradient_accumulation={pieces}",)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-4)


def test_a_run_directory_is_not_written_over(tmp_path: Path) -> None:
    train(blobs_job(), tmp_path)
    with pytest.raises(RunDirectoryError, match="already holds a run; go on with it by --resume"):
        train(blobs_job(), tmp_path)


def test_schedules_move_every_step_every_epoch_or_with_the_metric(tmp_path: Path) -> None:
    def rates(every: str, make: Any) -> list[float]:
        sink = Collect()
        job = blobs_job(schedule=make, schedule_every=every, epochs=3, evaluate_every=8)
        train(job, tmp_path / every, sinks=[sink], log_every=4)
        return [event.learning_rate for event in sink.events if isinstance(event, StepLogged)]

    def step(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def plateau(optimizer: Any) -> Any:  # accuracy never falls by itself, so "min" is never better than at first
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.1, patience=0)

    assert rates("step", step)[:2] == [1e-2 * 0.5**3, 1e-2 * 0.5**7]
    assert rates("epoch", step) == [1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3, 2.5e-3]
    assert rates("evaluation", plateau) == pytest.approx([1e-2] * 4 + [1e-3] * 2)


def test_any_batch_with_a_step_function(tmp_path: Path) -> None:
    result = train(noisy_job(tmp_path / "ids"), tmp_path)
    assert result.metric == "loss"
    assert result.value == result.loss
    assert len((tmp_path / "ids").read_text().splitlines()) == result.steps


def test_a_lazy_layer_takes_its_size_from_the_data(tmp_path: Path) -> None:
    job = blobs_job(model=lambda: nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.Linear(32, 2)))
    assert train(job, tmp_path).model[0].in_features == 6  # type: ignore[index,union-attr]


def test_the_notebook_form_returns_the_trained_model(tmp_path: Path) -> None:
    job = dataclasses.replace(
        blobs_job(), train=Noisy, valid=None, goal=None, metric="loss", loss=None, step=_first_two
    )
    result = train(job, tmp_path)
    assert result.value is None
    assert isinstance(result.model, nn.Module)


def _first_two(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])
