"""The verb: what it gives, what it keeps for the next time, and what it says when it cannot."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import torchspeed
from tiny import blobs_job
from torchspeed.errors import JobError, PlanError
from torchspeed.levers import REGISTRY
from torchspeed.tuning.tune import read_bytes, read_duration

JOB = """
import torch, torchspeed, time
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        return self.layer(x)

def job() -> torchspeed.Job:
    inputs = torch.randn(512, 6, generator=torch.Generator().manual_seed(0))
    return torchspeed.Job(
        model=Net, train=(inputs, (inputs.sum(1) > 0).long()), loss=nn.CrossEntropyLoss(),
        optimizer=lambda params: torch.optim.Adam(params, lr=1e-2), batch_size=32, epochs=3,
    )
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def tune(job: torchspeed.Job, **options: Any) -> torchspeed.Tuning:
    return torchspeed.tune(job, **{"budget": "60s", "levers": ["optimizer_impl"], "device": "cpu", **options})


def leftovers() -> set[str]:
    return {entry for entry in os.listdir(tempfile.gettempdir()) if entry.startswith("torchspeed-tune-")}


def test_every_lever_tried_has_its_sentence(tmp_path: Path) -> None:
    before, said = leftovers(), []
    tuning = tune(blobs_job(), levers=["optimizer_impl", "precision", "memory_format"], say=said.append)
    assert {one.lever for one in tuning.tried} == {"optimizer_impl", "precision", "memory_format"}
    assert all(one.why for one in tuning.tried)
    refused = next(one for one in tuning.tried if one.lever == "memory_format")
    assert refused.why == "the model has no convolution over images or volumes"
    assert said
    assert tuning.baseline_samples_per_second > 0
    state = json.loads(json.dumps(tuning.as_dict(), allow_nan=False))
    assert {"baseline_samples_per_second", "tuned_samples_per_second", "speedup", "interval", "levers"} <= state.keys()
    assert torchspeed.Plan.from_toml(tuning.to_toml()) == tuning.plan
    assert tomllib.loads(tuning.to_toml()) == dict(tuning.plan.options)
    assert leftovers() == before, "the machine is left as it was"


def test_the_same_question_is_answered_at_once() -> None:
    first = tune(blobs_job(), levers=["memory_format"])
    began = time.perf_counter()
    second = tune(blobs_job(), levers=["memory_format"])
    assert time.perf_counter() - began < 2
    assert second == first
    assert second.from_cache.startswith(f"measured before, on {first.date}")
    assert second.from_cache in str(second)
    other = tune(blobs_job(epochs=7), levers=["memory_format"])
    assert other.from_cache == ""


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    tuning = tune(blobs_job(), levers=["memory_format"])
    assert "cannot be written" in tuning.notes[-1]
    assert "measured again next time" in tuning.notes[-1]


def test_a_damaged_answer_is_measured_again(tmp_path: Path) -> None:
    tune(blobs_job(), levers=["memory_format"])
    (stored,) = (tmp_path / "cache" / "torchspeed" / "tune").iterdir()
    stored.write_text(stored.read_text()[:100])
    assert tune(blobs_job(), levers=["memory_format"]).from_cache == ""


class FailsAt:
    """A step that raises when it is called for the ``n``-th time."""

    def __init__(self, n: int) -> None:
        self.n, self.calls = n, 0

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.n + 1:  # once before the training, to see that it fits
            raise ValueError("the seventh is one too many")
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_a_job_that_fails_in_step_7() -> None:
    before = leftovers()
    job = blobs_job(loss=None, step=FailsAt(7), metric="loss", goal=None)
    with pytest.raises(JobError, match=r"as written, the job fails: .*the seventh is one too many; nothing was tried"):
        tune(job)
    assert leftovers() == before


def test_a_model_that_cannot_be_sent() -> None:
    lock = threading.Lock()
    job = blobs_job(model=lambda: (lock, torch.nn.Linear(6, 2))[1])
    with pytest.raises(
        JobError, match=r"job 'blobs': model cannot be sent to a fresh process .*torchspeed tune job\.py"
    ):
        tune(job)


class Slow(Dataset[Any]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(6), 0


def opens_slowly() -> Slow:
    time.sleep(600)
    return Slow()


def test_data_that_need_ten_minutes_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchspeed.tuning.laboratory.LEAST_LIMIT", 4.0)
    with pytest.raises(JobError, match=r"did not get through its first steps within the budget of 4 s: .*opened"):
        tune(blobs_job(train=opens_slowly, valid=None, goal=None), budget="4s")


def test_a_budget_too_small_for_one_trial() -> None:
    tuning = tune(blobs_job(), levers=["memory_format"], budget="3s")
    assert not tuning.complete
    assert tuning.plan == torchspeed.Plan()
    assert any("the budget of 3 s is too small" in note for note in tuning.notes)
    assert tuning.baseline_samples_per_second > 0
    longer = tune(blobs_job(), levers=["memory_format"], budget="60s")
    assert longer.from_cache == "", "what was cut short is measured again with more time"


def test_no_compiler_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    tuning = tune(blobs_job(), levers=["compile"])
    default = next(one for one in tuning.tried if one.option == "default")
    assert "compiler" in default.why
    assert not default.kept


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), (7, 7), ("1.5m", 90)])
def test_durations(text: Any, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5s", "0s", "5 minutes please", "1e99s"])
def test_no_duration(text: str) -> None:
    with pytest.raises(PlanError, match="a budget is a time such as 90s"):
        read_duration(text)


@pytest.mark.parametrize(("text", "count"), [("8GiB", 8 << 30), ("500MB", 500_000_000), (1024, 1024), (None, 0)])
def test_bytes(text: Any, count: int) -> None:
    assert read_bytes(text) == count


def test_unknown_levers_are_named() -> None:
    with pytest.raises(PlanError, match=r"unknown lever 'precison'; valid: .*precision"):
        tune(blobs_job(), levers=["precison"])


def test_goal_levers_are_never_chosen() -> None:
    goal = [lever.name for lever in REGISTRY.values() if lever.guarantee is torchspeed.Guarantee.GOAL]
    for name in goal:
        with pytest.raises(PlanError, match="changes the result"):
            tune(blobs_job(), levers=[name])


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torchspeed", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    plan = tmp_path / "plan.toml"
    done = command(
        "tune", "job.py", "--budget", "40s", "--lever", "memory_format", "--out", str(plan), "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert {one["lever"] for one in state["levers"]} == {"memory_format"}
    assert torchspeed.Plan.read(plan) == torchspeed.Plan.from_mapping(state["plan"])
    trained = command("train", "job.py", "--plan", str(plan), "--quiet", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr


def test_train_tunes_first(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    done = command("train", "job.py", "--tune", "12s", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "as written" in done.stdout
    assert (tmp_path / "run" / "result.json").is_file()


def test_tune_and_a_plan_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    done = command("train", "job.py", "--tune", "30s", "--set", "threads=1", cwd=tmp_path)
    assert done.returncode == 78
    assert "--tune finds the plan itself" in done.stderr


def test_a_plan_is_written_where_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    done = command("tune", "job.py", "--out", "nowhere/plan.toml", cwd=tmp_path)
    assert done.returncode == 78
    assert "there is no folder" in done.stderr


def test_a_source_makes_the_job_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    source = functools.partial(torchspeed.load_job, str(tmp_path / "job.py"))
    assert tune(source(), source=source, levers=["memory_format"]).baseline_samples_per_second > 0
