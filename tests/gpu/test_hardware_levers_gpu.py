"""The levers of the hardware pillar on a GPU: the same training, recorded, compiled, benchmarked or in fp8."""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import torchspeed
from tiny import blobs_job
from torchspeed.engine.build import build
from torchspeed.engine.step import make_step
from torchspeed.errors import PlanError
from torchspeed.levers.hardware.allocator import Allocator
from torchspeed.levers.hardware.cuda_graphs import WARM_UP
from torchspeed.machine import Machine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "AdamW fused": lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True),
    "SGD": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "SGD fused": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9, fused=True),
}


def losses(plan: torchspeed.Plan, epochs: int = 2, **changes: Any) -> list[float]:
    """Losses of the steps of ``epochs``, the schedule moved after each."""
    run = build(blobs_job(**changes), plan, Machine.detect("cuda"))
    assert run.skipped == []
    step, found = make_step(run), []
    for epoch in range(epochs):
        for batch in run.loader.epoch(epoch):
            found.append(step(batch))
            if run.schedule is not None:
                run.schedule.step()
    return [float(loss) for loss in found]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_recorded_step_trains_like_the_written_one(optimizer: Any) -> None:
    """The schedule moves the rate in each step, and the last batch of an epoch is smaller."""

    def schedule(made: Any) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(made, 0.8)

    changes = {"optimizer": optimizer, "schedule": schedule, "schedule_every": "step", "batch_size": 10}
    written = losses(torchspeed.Plan(), **changes)
    recorded = losses(torchspeed.Plan.of(cuda_graphs="step"), **changes)
    assert len(recorded) > WARM_UP + 2
    assert recorded == pytest.approx(written, rel=1e-3)


def test_a_recorded_step_replays_and_shows_its_gradients() -> None:
    run = build(blobs_job(), torchspeed.Plan.of(cuda_graphs="step"), Machine.detect("cuda"))
    calls = []
    run.model.register_forward_hook(lambda *_: calls.append(1))
    step = make_step(run)
    batch = run.loader.batch(0, 0)
    for _ in range(WARM_UP + 5):
        step(batch)
    assert len(calls) == WARM_UP + 1
    assert all(parameter.grad is not None for parameter in run.model.parameters())


def test_clipping_bf16_and_pieces_are_recorded_too() -> None:
    plan = {"precision": "bf16", "gradient_accumulation": 2}
    written = losses(torchspeed.Plan.of(**plan), clip_grad_norm=0.5)
    assert losses(torchspeed.Plan.of(**plan, cuda_graphs="step"), clip_grad_norm=0.5) == pytest.approx(
        written, rel=1e-2
    )


def test_dropout_draws_anew_in_each_replay() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(nn.functional.dropout(x, 0.5))

    run = build(blobs_job(model=Dropped), torchspeed.Plan.of(cuda_graphs="step"), Machine.detect("cuda"))
    run.optimizer.param_groups[0]["lr"] = 0.0
    step, batch = make_step(run), run.loader.batch(0, 0)
    assert len({float(step(batch)) for _ in range(WARM_UP + 6)}) > WARM_UP + 2


def test_a_step_that_waits_for_the_gpu_cannot_be_recorded() -> None:
    def reading(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return loss * (1.0 if loss.item() > 0 else 2.0)

    job = blobs_job(step=reading, loss=None, metric="loss")
    run = build(job, torchspeed.Plan.of(cuda_graphs="step"), Machine.detect("cuda"))
    step, batch = make_step(run), run.loader.batch(0, 0)
    for _ in range(WARM_UP):
        step(batch)
    with pytest.raises(PlanError, match="the step cannot be recorded"):
        step(batch)


def test_a_scaled_step_is_not_recorded() -> None:
    run = build(blobs_job(), torchspeed.Plan.of(cuda_graphs="step", precision="fp16"), Machine.detect("cuda"))
    with pytest.raises(PlanError, match="cuda_graphs and precision=fp16 exclude each other"):
        make_step(run)


@pytest.mark.parametrize("option", ["default", "reduce-overhead", "step"])
def test_a_compiled_training_is_the_same(option: str) -> None:
    assert losses(torchspeed.Plan.of(compile=option)) == pytest.approx(losses(torchspeed.Plan()), rel=1e-3)


def test_benchmarked_convolutions_agree() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 8, 3), nn.Flatten(), nn.Linear(32, 2))

    written = losses(torchspeed.Plan(), model=model)
    assert losses(torchspeed.Plan.of(cudnn_benchmark="on"), model=model) == pytest.approx(written, rel=1e-3)
    assert torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_fp8_trains_close_to_bf16() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs compute capability 8.9")

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))

    bf16 = losses(torchspeed.Plan.of(precision="bf16"), model=model)
    assert losses(torchspeed.Plan.of(precision="fp8"), model=model) == pytest.approx(bf16, rel=0.1)


def test_segments_expand_in_a_fresh_process() -> None:
    code = (
        "import torch; torch.ones(1 << 20, device='cuda');"
        "print(any(s['is_expandable'] for s in torch.cuda.memory_snapshot()))"
    )
    environment = {**os.environ, **Allocator().environ("expandable")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
