"""kill -9 at any step, resume, and everything equals the run that was never killed (faults 1, 3 and 8).

STATE is every tensor and number of the last checkpoint (time apart); IDS are the samples each step consumed.
"""

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import torchspeed
from tiny import LogIds, Noisy, noisy_job
from torchspeed import optim
from torchspeed.engine import checkpoint, state
from torchspeed.engine import train as verb
from torchspeed.errors import CheckpointError, Preempted

TIMES = ("seconds", "seconds_to_goal")
STEPS = 21


def last_state(run: Path) -> str:
    """A digest of the last checkpoint, time apart."""
    found, _ = checkpoint.newest(run / "checkpoints")
    assert found.step == STEPS
    position = {name: value for name, value in found.state["position"].items() if name not in TIMES}
    return state.digest({**found.state, "position": position})


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except Preempted:
            os._exit(75)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


class KillAt(LogIds):
    """Kills its own process before the given step."""

    def __init__(self, path: Path, step: int, number: int = signal.SIGKILL) -> None:
        super().__init__(path)
        self.left, self.number = step, number

    def __call__(self, model: Any, batch: Any) -> Any:
        if model.training and torch.is_grad_enabled():
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)
        return super().__call__(model, batch)


def job(folder: Path, step: Any = None, **changes: Any) -> torchspeed.Job:
    return noisy_job(folder / "ids", **({"step": step} if step else {}), **changes)


def start(folder: Path, step: Any = None, **changes: Any) -> None:
    made = job(folder, step, **changes)
    torchspeed.train(made, run_dir=folder / "run", progress=False, checkpoint_every=4, log_every=3, device="cpu")


def resume(folder: Path, step: Any = None, **changes: Any) -> None:
    made = job(folder, step, **changes)
    torchspeed.train(made, resume=folder / "run", progress=False, checkpoint_every=4, log_every=3, device="cpu")


@pytest.fixture(autouse=True)
def _same_step_counts_as_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """KillAt stands for LogIds: the job is the same but for the planted fault."""
    monkeypatch.setattr(verb, "_MAY_DIFFER", verb._MAY_DIFFER | {"step"})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    start(folder)  # in this process: what torch imports at its first step is then there for the forked ones
    return folder


def ids_by_step(folder: Path, killed_before: list[int]) -> list[str]:
    """What each step consumed: a resumed run takes the steps since its checkpoint again."""
    lines = (folder / "ids").read_text().splitlines()
    steps: dict[int, str] = {}
    at = 0
    for stop in [*killed_before, None]:
        first = at // 4 * 4
        taken = lines[: (STEPS if stop is None else stop - 1) - first]
        for number, line in enumerate(taken, first):
            assert steps.setdefault(number, line) == line, f"step {number} consumed other samples the second time"
        lines = lines[len(taken) :]
        at = stop - 1 if stop is not None else STEPS
    assert lines == []
    return [steps[number] for number in range(STEPS)]


@pytest.mark.parametrize("step", sorted(random.Random(7).sample(range(1, STEPS + 1), 20)))
def test_kill_9_at_any_step_and_resume(tmp_path: Path, reference: Path, step: int) -> None:
    assert in_child(lambda: start(tmp_path, KillAt(tmp_path / "ids", step))) == signal.SIGKILL
    assert in_child(lambda: resume(tmp_path)) == 0
    assert last_state(tmp_path / "run") == last_state(reference / "run")
    assert ids_by_step(tmp_path, [step]) == (reference / "ids").read_text().splitlines()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (reference / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in (*metrics, *expected):
        del line["seconds"]
        line.pop("samples_per_second", None)
    assert metrics == expected


def test_killed_again_while_resuming(tmp_path: Path, reference: Path) -> None:
    assert in_child(lambda: start(tmp_path, KillAt(tmp_path / "ids", 7))) == signal.SIGKILL
    assert in_child(lambda: resume(tmp_path, KillAt(tmp_path / "ids", 1))) == signal.SIGKILL
    assert in_child(lambda: resume(tmp_path, KillAt(tmp_path / "ids", 9))) == signal.SIGKILL
    assert in_child(lambda: resume(tmp_path)) == 0
    assert last_state(tmp_path / "run") == last_state(reference / "run")


@pytest.mark.parametrize("step", [1, 6, 8, 20])
def test_sigterm_saves_and_exits_75(tmp_path: Path, reference: Path, step: int) -> None:
    status = in_child(lambda: start(tmp_path, KillAt(tmp_path / "ids", step, signal.SIGTERM)))
    assert os.waitstatus_to_exitcode(status) == 75
    assert checkpoint.newest(tmp_path / "run" / "checkpoints")[0].step == step, "no step was lost"
    assert in_child(lambda: resume(tmp_path)) == 0
    assert last_state(tmp_path / "run") == last_state(reference / "run")
    assert (tmp_path / "ids").read_text() == (reference / "ids").read_text()


class TermInEvaluation(LogIds):
    def __call__(self, model: Any, batch: Any) -> Any:
        if not model.training and not (self.path.parent / "stopped").exists():
            if (self.path.parent / "warm").exists():  # not in the check before step 1
                (self.path.parent / "stopped").touch()
                os.kill(os.getpid(), signal.SIGTERM)
            (self.path.parent / "warm").touch()
        return super().__call__(model, batch)


def test_sigterm_in_the_evaluation_is_evaluated_after_resuming(tmp_path: Path, reference: Path) -> None:
    status = in_child(lambda: start(tmp_path, TermInEvaluation(tmp_path / "ids")))
    assert os.waitstatus_to_exitcode(status) == 75
    assert in_child(lambda: resume(tmp_path)) == 0
    assert last_state(tmp_path / "run") == last_state(reference / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "evaluation"] == [7, 14, 21]


@pytest.mark.parametrize("left_out", ["_restore_generators", "schedule", "optimizer"])
def test_a_restore_that_leaves_something_out_is_seen(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    """The negative control: these comparisons can fail."""
    assert in_child(lambda: start(tmp_path, KillAt(tmp_path / "ids", 10))) == signal.SIGKILL
    if left_out == "_restore_generators":
        monkeypatch.setattr(state, "_restore_generators", lambda states: None)
    elif left_out == "schedule":
        monkeypatch.setattr(torch.optim.lr_scheduler.MultiStepLR, "load_state_dict", lambda self, state: None)
    else:
        monkeypatch.setattr(torch.optim.Adam, "load_state_dict", lambda self, state: None)
    assert in_child(lambda: resume(tmp_path)) == 0
    assert last_state(tmp_path / "run") != last_state(reference / "run")


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_resumes_bit_for_bit(tmp_path: Path, reference: Path, name: str) -> None:
    changes = {"optimizer": optim.optimizer(name, learning_rate=1e-2), "schedule": None}
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    assert in_child(lambda: start(tmp_path / "whole", **changes)) == 0
    status = in_child(lambda: start(tmp_path / "cut", KillAt(tmp_path / "cut" / "ids", 11), **changes))
    assert status == signal.SIGKILL
    assert in_child(lambda: resume(tmp_path / "cut", **changes)) == 0
    assert last_state(tmp_path / "cut" / "run") == last_state(tmp_path / "whole" / "run")


def test_another_job_is_refused_by_the_fields_that_differ(tmp_path: Path) -> None:
    start(tmp_path)
    with pytest.raises(CheckpointError, match="of another job: batch_size, clip_grad_norm differ"):
        resume(tmp_path, batch_size=4, clip_grad_norm=2.0)
    with pytest.raises(CheckpointError, match="of another job: train differs"):
        resume(tmp_path, train=Noisy(60))


def test_more_epochs_are_not_another_job(tmp_path: Path) -> None:
    start(tmp_path)
    resume(tmp_path, epochs=4)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 28


def test_a_damaged_checkpoint_is_stepped_behind_with_one_sentence(
    tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_child(lambda: start(tmp_path, KillAt(tmp_path / "ids", 18))) == signal.SIGKILL
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    (newest / "model.safetensors").write_bytes(b"")
    torchspeed.train(job(tmp_path), resume=tmp_path / "run", device="cpu")
    assert capsys.readouterr().out.count("model.safetensors: torn") == 1
    assert last_state(tmp_path / "run") == last_state(reference / "run")


def test_a_missing_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        resume(tmp_path)
