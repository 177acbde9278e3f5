"""The whole engine on a GPU: it learns, waits for nothing within a step, resumes bit for bit, in every precision."""

from pathlib import Path
from typing import Any

import pytest
import torch

import torchspeed
from tiny import blobs_job, noisy_job
from torchspeed.engine import checkpoint, state
from torchspeed.engine.build import build
from torchspeed.engine.step import make_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


def train(folder: Path, plan: torchspeed.Plan | None = None, **changes: Any) -> torchspeed.Result:
    return torchspeed.train(blobs_job(**changes), plan, run_dir=folder, progress=False, device="cuda")


@pytest.mark.parametrize("precision", ["as written", "tf32", "bf16", "fp16"])
def test_it_learns_in_every_precision(tmp_path: Path, precision: str) -> None:
    result = train(tmp_path / "run", torchspeed.Plan.of(precision=precision), epochs=10)
    assert result.goal_reached or result.skipped
    assert next(result.model.parameters()).device.type == "cuda"


@pytest.mark.parametrize("implementation", ["for-loop", "foreach", "fused"])
def test_optimizer_implementations_agree(tmp_path: Path, implementation: str) -> None:
    as_written = train(tmp_path / "one")
    other = train(tmp_path / "other", torchspeed.Plan.of(optimizer_impl=implementation))
    assert other.loss == pytest.approx(as_written.loss, rel=1e-3)


def test_the_losses_are_near_those_of_the_cpu(tmp_path: Path) -> None:
    gpu = train(tmp_path / "gpu")
    cpu = torchspeed.train(blobs_job(), run_dir=tmp_path / "cpu", progress=False, device="cpu")
    assert gpu.loss == pytest.approx(cpu.loss, rel=1e-3)


@pytest.mark.parametrize("precision", ["as written", "bf16"])
def test_a_step_does_not_wait_for_the_device(precision: str) -> None:
    job = blobs_job(clip_grad_norm=1.0)
    run = build(job, torchspeed.Plan.of(precision=precision), torchspeed.Machine.detect("cuda"))
    step = make_step(run)
    batches = list(run.loader.epoch(0))
    for batch in batches[:3]:
        step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[3:]:
            step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_resume_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    """Dropout on the GPU draws from the GPU's generator, which is part of the state."""

    def run(folder: Path, epochs: float, **options: Any) -> None:
        job = noisy_job(tmp_path / f"{folder.name}.ids", epochs=epochs)
        torchspeed.train(job, progress=False, device="cuda", **options)

    run(tmp_path / "whole", 3, run_dir=tmp_path / "whole")
    run(tmp_path / "cut", 1.5, run_dir=tmp_path / "cut")
    run(tmp_path / "cut", 3, resume=tmp_path / "cut")
    digests = []
    for name in ("whole", "cut"):
        found, _ = checkpoint.newest(tmp_path / name / "checkpoints")
        position = {key: value for key, value in found.state["position"].items() if key in ("step", "epoch", "batch")}
        digests.append(state.digest({**found.state, "position": position}))
    assert digests[0] == digests[1]


def test_a_gpu_checkpoint_resumes_on_the_cpu(tmp_path: Path) -> None:
    train(tmp_path / "run", epochs=2)
    result = torchspeed.train(blobs_job(epochs=4), resume=tmp_path / "run", progress=False, device="cpu")
    assert result.steps == 32
    assert result.provenance.machine.device == "cpu"


def test_out_of_memory_says_what_to_do(tmp_path: Path) -> None:
    size = torch.cuda.get_device_properties(0).total_memory // 4
    job = blobs_job(
        step=lambda model, batch: model(torch.empty(size, 6, device="cuda")).sum(), loss=None, metric="loss"
    )
    with pytest.raises(torchspeed.errors.JobError, match=r"out of memory on cuda .* gradient_accumulation=2"):
        torchspeed.train(job, run_dir=tmp_path / "run", progress=False, device="cuda")
