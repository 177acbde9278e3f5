"""The command line as a user has it: real processes, their output and their exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchspeed import cli

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


# The first loss sends the signal to the process that the user started, from a trial of it too.
STOPPED = """
import os, signal, sys
def stop():
    in_trial = any("torchspeed.tuning.worker" in argument for argument in sys.orig_argv)
    os.kill(os.getppid() if in_trial else os.getpid(), signal.{signal})
    return 60 if in_trial else 0
"""


def torchspeed(
    *arguments: object, folder: Path, python: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "torchspeed", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts() -> None:
    """Tests that were started in the background ignore Ctrl-C, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


@pytest.mark.parametrize(
    "arguments",
    [("explain", "--steps", 2), ("tune", "--lever", "memory_format", "--budget", "30s")],
    ids=lambda a: a[0],
)
def test_json_is_json_although_the_job_prints(folder: Path, arguments: tuple[object, ...]) -> None:
    command, *options = arguments
    (folder / "job.py").write_text("print('Files already downloaded')\n" + JOB.format(sleep="print('loss') or 0"))
    kept = {"XDG_CACHE_HOME": str(folder / "cache")} if command == "tune" else {}
    done = torchspeed(command, "job.py", "--json", *options, folder=folder, **kept)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert "Files already downloaded" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "name", "code"),
    [
        (("explain", "job.py"), "SIGINT", 130),
        (("tune", "job.py"), "SIGINT", 130),
        (("tune", "job.py"), "SIGTERM", 143),
        (("train", "job.py", "--tune", "60s"), "SIGTERM", 143),
    ],
    ids=["explain, Ctrl-C", "tune, Ctrl-C", "tune, SIGTERM", "train --tune, SIGTERM"],
)
def test_what_is_stopped_says_so_in_a_line_and_leaves_nothing(
    folder: Path, arguments: tuple[str, ...], name: str, code: int
) -> None:
    (folder / "job.py").write_text(JOB.format(sleep="stop()") + STOPPED.format(signal=name))
    (folder / "tmp").mkdir()
    places = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    done = torchspeed(*arguments, folder=folder, **places)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if name == "SIGINT":
        assert done.stderr.splitlines()[-1] == "interrupted; nothing was kept"
    assert list((folder / "tmp").glob("torchspeed-*")) == []


def test_sigterm_is_handled_as_before_when_a_tuning_has_ended() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, cli._exit_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("job", ["job.py", "package.inner:job"])
def test_a_process_that_starts_over_imports_no_module_of_python_from_beside_the_job(folder: Path, job: str) -> None:
    """It still finds what the job imports from beside itself."""
    (folder / "queue.py").write_text("raise ImportError('not the queue of Python')\n")
    (folder / "neighbour.py").write_text("SLEEP = 0\n")
    (folder / "package").mkdir()
    source = "import neighbour\n" + JOB.format(sleep="neighbour.SLEEP")
    for path in (folder / "job.py", folder / "package" / "inner.py"):
        path.write_text(source)
    options = ("--set", "wait_policy=passive", "--epochs", 1, "--run-dir", "run", "--device", "cpu")
    done = torchspeed("train", job, *options, folder=folder, python=("-P",), OMP_WAIT_POLICY="ACTIVE")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "run" / "result.json").read_text())["plan"] == {"wait_policy": "passive"}


@pytest.mark.parametrize("place", ["folder", "locked/plan.toml", "nowhere/plan.toml"])
def test_a_place_that_cannot_be_written_is_said_before_the_tuning(
    folder: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "folder").mkdir()
    (folder / "locked").mkdir(mode=0o500)
    if place.startswith("locked") and os.access(folder / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    monkeypatch.setattr(sys, "argv", ["torchspeed", "tune", "no-such-job.py", "--out", str(folder / place)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (74, 78)
    assert f"--out {folder / place}: " in capsys.readouterr().err


def test_asking_whether_a_place_can_be_written_changes_nothing(folder: Path) -> None:
    (folder / "old.toml").write_text("threads = 1\n")
    before = sorted(folder.iterdir())
    for name in ("old.toml", "new.toml"):
        cli._check_writable(folder / name)
    assert sorted(folder.iterdir()) == before
    assert (folder / "old.toml").read_text() == "threads = 1\n"
