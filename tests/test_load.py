"""From a reference to a job: what is drawn in a file is drawn again the same, and overrides go where they belong."""

from pathlib import Path

import pytest

import torchspeed
from torchspeed.errors import JobError, PlanError

FILE = """
import torch, torchspeed
from torch import nn
inputs, labels = torch.randn(64, 6), torch.randint(0, 2, (64,))
def job(epochs=3):
    return torchspeed.Job(model=lambda: nn.Linear(6, 2), train=(inputs, labels), loss=nn.CrossEntropyLoss(),
                          optimizer=lambda params: torch.optim.SGD(params, lr=0.1), epochs=epochs)
ready = job()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "drawn.py"
    path.write_text(FILE)
    return path


def test_what_a_file_draws_is_drawn_again_the_same(file: Path) -> None:
    assert torchspeed.load_job(str(file)) == torchspeed.load_job(str(file))
    assert torchspeed.load_job(str(file)) != torchspeed.load_job(str(file), seed=1)


def test_overrides_go_to_the_function_or_to_the_field(file: Path) -> None:
    job = torchspeed.load_job(str(file), epochs=5, batch_size=7, seed=9)
    assert (job.epochs, job.batch_size, job.seed, job.name) == (5, 7, 9, "drawn")


def test_a_job_that_is_there_already_is_taken_as_it_is(file: Path) -> None:
    assert torchspeed.load_job(f"{file}:ready").epochs == 3


def test_a_module_on_the_path_is_a_reference(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(file.parent)
    assert torchspeed.load_job("drawn:job").name == "drawn"


def test_the_plan_beside_a_job_is_found(file: Path) -> None:
    assert torchspeed.plan_beside(str(file)) is None
    file.with_suffix(".plan.toml").write_text("threads = 1\n")
    assert torchspeed.plan_beside(f"{file}:job") == file.with_suffix(".plan.toml")
    plan = torchspeed.plan_beside("digits")
    assert plan is not None
    assert plan.name == "digits.plan.toml"


def test_what_is_not_a_job_or_a_plan_says_what_makes_one(file: Path) -> None:
    with pytest.raises(JobError, match=r"train\(\) takes a Job; found 'job.py'"):
        torchspeed.train("job.py")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"plan must be a Plan; found 'bf16'"):
        torchspeed.train(torchspeed.load_job(str(file)), "bf16")  # type: ignore[arg-type]
    with pytest.raises(JobError, match=r"give learning_rate= \(lr= is not its name here\)"):
        torchspeed.optim.optimizer("adam", lr=1e-3)
