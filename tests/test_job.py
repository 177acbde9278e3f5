"""A job is checked when it is made, and compares by what it means."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tiny import blobs_job
from torchspeed import Goal
from torchspeed.errors import JobError


def test_two_jobs_that_mean_the_same_are_equal() -> None:
    assert blobs_job() == blobs_job()
    assert hash(blobs_job()) == hash(blobs_job())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("batch_size", 16),
        ("loss", nn.CrossEntropyLoss(label_smoothing=0.1)),
        ("model", lambda: nn.Sequential(nn.Linear(6, 33), nn.ReLU(), nn.Linear(33, 2))),
        ("optimizer", lambda params: torch.optim.Adam(params, lr=2e-2)),
        ("train", (torch.zeros(256, 6), torch.zeros(256).long())),
    ],
)
def test_any_change_makes_another_job_and_is_named(field: str, value: Any) -> None:
    job, other = blobs_job(), blobs_job(**{field: value})
    assert job != other
    assert other.differs_from(job.field_fingerprints) == [field]


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    code = "from tiny import blobs_job; print(blobs_job().fingerprint)"
    for hash_seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert printed == blobs_job().fingerprint


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"loss": None}, "exactly one of loss="),
        ({"step": lambda model, batch: 0}, "exactly one of loss="),
        ({"model": nn.Linear(1, 1)}, "model is a module"),
        ({"model": 3}, "model must be a function"),
        ({"optimizer": None}, "optimizer must be a function of params; found nothing"),
        ({"batch_size": 0}, "batch_size must be ≥ 1; found 0"),
        ({"batch_size": 2.5}, "batch_size must be ≥ 1; found 2.5"),
        ({"epochs": -1}, "epochs must be > 0"),
        ({"epochs": float("nan")}, "epochs must be > 0"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"seed": 2**63}, "seed must be an integer from 0"),
        ({"goal": 0.9}, "goal must be a Goal; found a float"),
        ({"clip_grad_norm": "1"}, "clip_grad_norm must be > 0"),
        ({"valid": None, "goal": None, "schedule": len, "schedule_every": "evaluation"}, "needs valid="),
        ({"metric": "f1"}, 'metric must be "accuracy", "loss" or a function'),
        ({"valid": None}, "a goal is measured on valid="),
        ({"goal": Goal("loss_", at_most=1)}, "the goal is on 'loss_' but the metric is 'accuracy'"),
        ({"schedule_every": "batch"}, "schedule_every must be"),
        ({"clip_grad_norm": 0}, "clip_grad_norm must be > 0"),
        ({"evaluate_every": 0}, "evaluate_every must be ≥ 1"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], finding: str) -> None:
    with pytest.raises(JobError, match=finding):
        blobs_job(**change)


def test_a_goal_has_one_bound() -> None:
    with pytest.raises(JobError, match="exactly one"):
        Goal("accuracy")
    with pytest.raises(JobError, match="exactly one"):
        Goal("accuracy", at_least=0.1, at_most=0.2)


def test_a_goal_knows_its_direction() -> None:
    assert Goal("accuracy", at_least=0.9).reached(0.9)
    assert not Goal("accuracy", at_least=0.9).reached(0.89)
    assert Goal("loss", at_most=1.88).reached(1.8)
    assert Goal("loss", at_most=1.88).better(1.7, than=1.8)
    assert not Goal("loss", at_most=1.88).reached(float("nan"))
