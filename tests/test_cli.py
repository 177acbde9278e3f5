"""The command line as a user has it: real processes, their output and their exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOB = """
import time, torch, torchspeed
from torch import nn
torch.manual_seed(1)
inputs = torch.randn(256, 6)
labels = (inputs.sum(1) > 0).long()
def loss(output, target):
    time.sleep({sleep})
    return nn.functional.cross_entropy(output, target)
def job(epochs=4, seed=0):
    return torchspeed.Job(model=lambda: nn.Linear(6, 2), train=(inputs, labels), valid=(inputs, labels), loss=loss,
                          optimizer=lambda params: torch.optim.SGD(params, lr=0.5), metric="accuracy", epochs=epochs,
                          seed=seed, goal=torchspeed.Goal("accuracy", at_least=0.9), batch_size=16)
"""


def torchspeed(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchspeed", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB.format(sleep=0))
    return tmp_path


def test_train_says_device_job_plan_run_and_result(folder: Path) -> None:
    (folder / "job.plan.toml").write_text('optimizer_impl = "foreach"\n')
    done = torchspeed("train", "job.py", "--run-dir", "run", "--set", "threads=1", "--seed", 5, folder=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(("cpu: ", "cuda: ", "mps: "))
    assert "job: job, 64 steps; goal: accuracy ≥ 0.9" in lines
    assert "using job.plan.toml, which lies beside the job (--as-written leaves it out)" in lines
    assert "plan: threads=1, optimizer_impl=foreach" in lines
    assert "(goal accuracy ≥ 0.9: reached)" in done.stdout
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["goal_reached"]
    assert result["seed"] == 5
    assert result["plan"] == {"optimizer_impl": "foreach", "threads": 1}


def test_explain_says_what_is_done_with_the_data(folder: Path) -> None:
    done = torchspeed("explain", "job.py", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "train: as written: TensorBatches gives whole batches by itself" in done.stdout
    assert "valid: " in done.stdout
    assert not (folder / "runs").exists()


def test_as_written_leaves_the_plan_out(folder: Path) -> None:
    (folder / "job.plan.toml").write_text('optimizer_impl = "foreach"\n')
    done = torchspeed("train", "job.py:job", "--as-written", "--quiet", "--run-dir", "run", folder=folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((folder / "run" / "result.json").read_text())["plan"] == {}


def test_sigterm_exits_75_and_resume_goes_on(folder: Path) -> None:
    (folder / "job.py").write_text(JOB.format(sleep=0.05))
    command = [sys.executable, "-m", "torchspeed", "train", "job.py", "--run-dir", "run", "--log-every", "1"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "go on with: torchspeed train --resume run" in said
    assert not (folder / "run" / "result.json").exists()
    done = torchspeed("train", "--resume", "run", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stdout
    assert json.loads((folder / "run" / "result.json").read_text())["steps"] == 64
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"step"' in line]
    assert steps == sorted(steps)


def test_a_torn_checkpoint_exits_65_and_keeps_what_there_is(folder: Path) -> None:
    assert torchspeed("train", "job.py", "--run-dir", "run", "--quiet", folder=folder).returncode == 0
    for path in (folder / "run" / "checkpoints").glob("step-*/state.json"):
        path.write_text("{}")
    before = sorted(folder.rglob("*"))
    done = torchspeed("train", "--resume", "run", folder=folder)
    assert done.returncode == 65
    assert "state.json: torn" in done.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_is_there(folder: Path, arguments: list[str]) -> None:
    done = torchspeed(*arguments, folder=folder)
    assert done.returncode == 0
    assert "torchspeed" in done.stdout


def test_an_unknown_option_is_a_usage_error(folder: Path) -> None:
    assert torchspeed("train", "digits", "--epoch", "3", folder=folder).returncode == 2
