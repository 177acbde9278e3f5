"""``explain`` on small jobs of known faults, and the page and the JSON as a user gets them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from typer.testing import CliRunner

import tiny
import torchspeed
from torchspeed import cli
from torchspeed.errors import DataError, JobError, StorageError
from torchspeed.lever import Bound
from torchspeed.measure import explain as explain_module
from torchspeed.measure.limits import Limits

LIMITS = Limits((("float32", 5e10),), 1e10, (), None, None, 3e-6, 1, "2025-01-01")


@pytest.fixture(autouse=True)
def known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring what the machine can do takes seconds, and has tests of its own."""
    monkeypatch.setattr(explain_module, "measured_limits", lambda machine: LIMITS)


class Slow(Dataset[Any]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.0005)
        return torch.full((6,), float(index)), index % 2


class FailsAt(nn.Linear):
    """Raises in its ``last`` call."""

    calls = 0
    last = 7

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.last:
            raise ValueError("no more")
        return super().forward(x)


def test_an_explanation_holds_together() -> None:
    found = torchspeed.explain(tiny.blobs_job(), device="cpu", steps=20)
    assert sum(found.parts.seconds.values()) == pytest.approx(found.parts.step_seconds)
    assert found.limit_seconds is not None
    assert 0 < found.limit_seconds < found.parts.step_seconds
    assert found.share_of_limit == pytest.approx(found.limit_seconds / found.parts.step_seconds)
    assert all(bound >= 1 for bound in found.bounds.values())
    assert found.samples_per_second == pytest.approx(32 / found.parts.step_seconds)
    modules = {module.name: module for module in found.modules}
    assert {"0", "1", "2"} <= set(modules)
    assert modules["0"].flops_per_second
    assert 0 < sum(module.share for module in found.modules) < 1


def test_the_json_is_all_of_it_and_has_no_nan() -> None:
    found = torchspeed.explain(tiny.blobs_job(), device="cpu", steps=6)
    read = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    wanted = {"step_seconds", "parts", "limit_seconds", "share_of_limit", "verdict", "bounds", "modules", "advice"}
    assert wanted <= set(read)
    assert sum(read["parts"].values()) == pytest.approx(read["step_seconds"])
    assert read["verdict"] in {bound.value for bound in Bound}
    assert set(read["bounds"]) == set(read["parts"])


def test_the_page_says_the_verdict_first_and_fits_the_terminal() -> None:
    page = str(torchspeed.explain(tiny.blobs_job(train=Slow(), batch_size=16), device="cpu", steps=6))
    lines = page.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("job: blobs, batches of 16, 4 per epoch; plan: as written")
    assert any(line.startswith("DATA-BOUND: waiting for data is ") for line in lines[:8])
    assert "--set loader_workers=1" in page.split("module ")[0]
    assert "train: as written" in page


def test_a_slow_dataset_is_data_bound_and_a_free_one_would_gain_as_much() -> None:
    found = torchspeed.explain(tiny.blobs_job(train=Slow(), batch_size=16), device="cpu", steps=6)
    assert found.verdict.bound is Bound.DATA
    share = found.parts.shares["data"]
    assert found.bounds["data"] == pytest.approx(1 / (1 - share), rel=1e-6)
    assert found.bounds["data"] > 3


def test_a_job_that_fails_in_step_7_says_where_and_what_was_measured() -> None:
    with pytest.raises(JobError) as failed:
        torchspeed.explain(tiny.blobs_job(model=lambda: FailsAt(6, 2)), device="cpu")
    said = str(failed.value)
    assert said.startswith("step 7 (batch 6 of epoch 0) failed: ")
    assert f"{Path(__file__).name}:" in said
    assert "ValueError: no more" in said
    assert "of a step" not in said
    assert "; measured before it: " in said
    assert "forward" in said.split("measured before it")[1]


def test_a_job_that_fails_at_once_says_that_nothing_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailsAt, "last", 1)
    with pytest.raises(JobError, match=r"^step 1 .*no more; nothing was measured before it$"):
        torchspeed.explain(tiny.blobs_job(model=lambda: FailsAt(6, 2)), device="cpu")


def test_a_label_out_of_range_stays_an_error_of_the_data() -> None:
    labels = torch.zeros(256, dtype=torch.long)
    labels[100] = 9
    with pytest.raises(DataError, match="label 9 is out of range"):
        torchspeed.explain(tiny.blobs_job(train=(torch.randn(256, 6), labels), shuffle=False), device="cpu", steps=20)


def test_what_cannot_be_counted_is_a_note_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise RuntimeError("an operation that\nnobody knows")

    monkeypatch.setattr(explain_module, "count_step", refuses)
    found = torchspeed.explain(tiny.blobs_job(), device="cpu", steps=6)
    assert "the work of a step is not counted: RuntimeError: an operation that" in found.notes
    assert found.limit_seconds is None
    assert set(found.bounds) == {"data", "transfer", "other"}
    assert "the limit is not known" in str(found)
    json.dumps(found.as_dict(), allow_nan=False)


def test_how_long_opening_took_is_said() -> None:
    def opened() -> Any:
        time.sleep(0.25)
        return torch.randn(64, 6), torch.zeros(64, dtype=torch.long)

    found = torchspeed.explain(tiny.blobs_job(train=opened, valid=None, goal=None), device="cpu", steps=4)
    assert found.opening_seconds > 0.25
    assert f"{found.opening_seconds:.1f} s to open data and model" in str(found)


def test_a_trace_that_cannot_be_written_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    def opened() -> Any:
        raise AssertionError("opened")

    with pytest.raises(StorageError, match="missing"):
        torchspeed.explain(tiny.blobs_job(train=opened), device="cpu", trace=tmp_path / "missing" / "trace.json")


JOB = """
import time, torch, torchspeed
from torch import nn
def train():
    time.sleep({opening})
    return torch.randn(256, 6), torch.zeros(256, dtype=torch.long)
def job():
    return torchspeed.Job(model=lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)), train=train,
                          loss=nn.CrossEntropyLoss(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), batch_size=16)
"""


def test_the_command_prints_json_and_writes_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "job.py").write_text(JOB.format(opening=0))
    monkeypatch.chdir(tmp_path)
    arguments = ["explain", "job.py", "--json", "--steps", "4", "--trace", "trace.json", "--set", "prefetch=4"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    read = json.loads(done.stdout)
    assert read["plan"] == {"prefetch": 4}
    assert read["limits"]["matrix_flops"] == [["float32", 5e10]]
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_an_interrupt_ends_it_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB.format(opening=60).replace("def train", "open('there', 'w')\ndef train"))
    command = [sys.executable, "-m", "torchspeed", "explain", "job.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "there").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
