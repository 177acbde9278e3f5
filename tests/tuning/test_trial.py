"""Trials are processes: whatever happens in one is an answer, and nothing of it stays."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import torchspeed
from tiny import blobs_job
from torchspeed.machine import environment_with
from torchspeed.plan import Plan
from torchspeed.tuning.source import write_source
from torchspeed.tuning.trial import Trial, TrialFailed


def started(tmp_path: Path, job: torchspeed.Job, plan: Plan | None = None, timeout: float = 60) -> Trial:
    source = tmp_path / "job"
    write_source(job, source)
    trial = Trial(plan or Plan(), tmp_path / "trial", environment_with({"OMP_NUM_THREADS": "1"}))
    trial.start(source, "cpu", timeout)
    return trial


def failing_at(step: int, fail: Any) -> torchspeed.Job:
    """A job whose loss does what it should until ``step``."""
    count = 0

    def step_function(model: Any, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == step + 1:  # one call more: the look at the first batch before the training
            fail()
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    return blobs_job(loss=None, step=step_function, metric="loss", goal=None, valid=None)


def explode() -> None:
    raise ZeroDivisionError("planted")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_trial_steps_as_train_does(tmp_path: Path) -> None:
    with started(tmp_path, blobs_job()) as trial:
        trial.block(8, 60)
    result: list[float] = []

    class Sink:
        def handle(self, event: Any) -> None:
            if type(event).__name__ == "StepLogged":
                result.append(event.loss)

        def close(self) -> None: ...

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torchspeed.train(
        blobs_job(epochs=1), run_dir=tmp_path / "run", log_every=1, progress=False, device="cpu", sinks=[Sink()]
    )
    torch.set_num_threads(threads)
    assert trial.losses == result


def test_a_trial_is_stopped_while_nothing_is_asked_of_it(tmp_path: Path) -> None:
    with started(tmp_path, blobs_job()) as trial:
        deadline = time.monotonic() + 5
        while state(trial._process.pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state(trial._process.pid) == "T"
        assert trial.block(1, 60).steps == 1
    with pytest.raises(ProcessLookupError):
        os.kill(trial._process.pid, 0)


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        (lambda: os._exit(3), r"ended with code 3 \(in its training steps\)"),
        (lambda: os.kill(os.getpid(), 9), r"ended by SIGKILL \(out of memory\?\) \(in its training steps\)"),
        (lambda: os.kill(os.getpid(), 11), "ended by SIGSEGV"),
        (explode, "ZeroDivisionError: planted"),
    ],
)
def test_a_crash_is_a_sentence(tmp_path: Path, fail: Any, sentence: str) -> None:
    trial = started(tmp_path, failing_at(7, fail))
    trial.block(6, 60)
    with pytest.raises(TrialFailed, match=sentence):
        trial.block(1, 60)
    assert trial.closed


def test_a_hang_is_ended(tmp_path: Path) -> None:
    trial = started(tmp_path, failing_at(2, lambda: time.sleep(600)))
    with pytest.raises(TrialFailed, match="no answer within 1 s") as failed:
        trial.block(2, 1)
    assert failed.value.timed_out
    with pytest.raises(ProcessLookupError):
        os.kill(trial._process.pid, 0)


def test_a_lack_of_memory_is_known_as_one(tmp_path: Path) -> None:
    trial = started(tmp_path, failing_at(1, lambda: torch.empty(1 << 60)))
    with pytest.raises(TrialFailed) as failed:
        trial.block(1, 60)
    assert failed.value.memory


def test_what_a_job_prints_does_not_disturb(tmp_path: Path) -> None:
    with started(tmp_path, failing_at(1, lambda: print('{"error": "not ours"}', flush=True))) as trial:
        assert trial.block(2, 60).steps == 2


def test_the_processes_of_its_loader_end_with_it(tmp_path: Path) -> None:
    with started(tmp_path, blobs_job(), Plan.of(loader_workers=2)) as trial:
        trial.block(2, 60)
        children = Path(f"/proc/{trial._process.pid}/task/{trial._process.pid}/children").read_text().split()
    for child in children:
        deadline = time.monotonic() + 5
        while Path(f"/proc/{child}").exists() and state(int(child)) != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{child}").exists() or state(int(child)) == "Z"


def test_a_job_of_a_script_is_sent_by_value(tmp_path: Path) -> None:
    class Local(torch.nn.Linear):
        pass

    with started(tmp_path, blobs_job(model=lambda: Local(6, 2))) as trial:
        assert trial.block(1, 60).samples == 32
