"""The largest and the fastest batch, of jobs whose memory per sample and seconds per step are known."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import torchspeed
from tiny import blobs_job
from torchspeed.cli import app
from torchspeed.errors import JobError, PlanError
from torchspeed.machine import free_memory
from torchspeed.tuning.growth import Growth

MIB = 1 << 20
UNSUPERVISED: dict[str, Any] = {"loss": None, "metric": "loss", "goal": None, "valid": None}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials inherit it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# which size to run next


def searched(peak: Callable[[int], float], *, allowed: int, start: int, most: int = 1 << 40) -> tuple[int, list[int]]:
    """The largest size that fits and all that were run, where ``size`` uses ``peak(size)``; over 1000 it fails."""
    growth, ran, size = Growth(allowed, most), [], start
    following: int | None = size
    while following is not None:
        ran.append(following)
        if peak(following) > 1000:
            growth.failed.add(following)
        else:
            growth.peaks[following] = round(peak(following))
        following = growth.next()
    return growth.largest, ran


def test_a_line_is_followed_to_where_it_meets_the_memory() -> None:
    found, ran = searched(lambda size: 100 + size / 10, allowed=900, start=64)
    assert 7500 <= found <= 8000
    assert max(ran) <= 8000, "nothing was run that was predicted not to fit"
    assert len(ran) <= 6


@pytest.mark.parametrize(
    ("peak", "start", "largest"),
    [
        (lambda size: max(300, 100 + size / 10), 8, 8000),  # opening the data took more than the first steps
        (lambda size: 100 + (size / 100) ** 2, 16, 2828),  # a loss over all pairs
        (lambda size: 100 + 500 * size, 1, 1),
        (lambda size: 100 + 100 * size, 1, 8),
        (lambda size: 100 + size, 4096, 800),  # the job as written does not fit
        (lambda size: 100 if size < 5000 else 2000, 64, 5000),  # something else gives way
    ],
)
def test_a_size_is_found_within_a_sixteenth(peak: Callable[[int], float], start: int, largest: int) -> None:
    found, ran = searched(peak, allowed=900, start=start)
    assert largest - max(8, largest // 8) <= found <= largest if largest > 8 else found == largest
    assert found in ran
    assert len(ran) <= 16


def test_from_one_size_nothing_is_run_that_might_not_fit() -> None:
    assert Growth(900, 1 << 40, {64: 600}).next() == 96


def test_there_is_no_batch_larger_than_the_data() -> None:
    assert searched(lambda size: 100, allowed=900, start=64, most=1000) == (1000, [64, 256, 1000])


def test_nothing_fits_is_an_answer() -> None:
    assert searched(lambda size: 950, allowed=900, start=64)[0] == 0


# in fresh processes

JOB = """
import torch, torchspeed
def step(model, batch):
    torch.ones(len(batch[1]), 1 << 20)  # 4 MiB per sample
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
def job():
    inputs = torch.randn(1000, 6)
    return torchspeed.Job(
        model=lambda: torch.nn.Linear(6, 2), train=(inputs, (inputs.sum(1) > 0).long()), step=step,
        optimizer=lambda params: torch.optim.Adam(params), batch_size=32,
    )
"""


def asked(job: Path, *options: str) -> Any:
    result = CliRunner().invoke(app, ["tune", str(job), "--device", "cpu", "--json", *options])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def test_the_largest_batch_is_where_memory_ends(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(JOB)
    found = asked(tmp_path / "large.py", "--largest-batch", "--memory", "800MiB")["largest_batch"]
    peaks = {one["batch_size"]: one["peak_memory"] for one in found["tried"]}
    without_batch = peaks[32] - 32 * 4 * MIB
    expected = (800 * MIB - without_batch) / (4 * MIB)
    assert expected - max(8, expected / 12) <= found["batch_size"] <= expected + 4
    assert peaks[found["batch_size"]] <= 800 * MIB
    assert found["guarantee"] == "GOAL"
    assert found["complete"]
    assert "would use" in found["why_no_larger"]


def known_sleep(model: Any, batch: Any) -> Any:
    time.sleep(0.004)
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_the_fastest_batch_shares_out_what_a_step_costs_once() -> None:
    job = blobs_job(step=known_sleep, batch_size=128, **UNSUPERVISED)
    found = torchspeed.fastest_batch(job, device="cpu", budget="30s")
    assert [one.batch_size for one in found.sizes] == [128, 256]
    assert found.batch_size == 256
    assert found.chosen.interval.low > 1.3
    assert found.chosen.samples_per_second < 256 / 0.004
    assert "there are data for no larger one" in found.why
    assert "--batch-size 256, or --set batch_size=256" in str(found)
    assert "GOAL: it is another training, of fewer, larger steps" in str(found)


def test_ranks_share_the_batch_and_on_a_cpu_the_host() -> None:
    found = torchspeed.largest_batch(blobs_job(batch_size=256), device="cpu", ranks=2, memory="16GiB")
    assert found.batch_size == 256
    assert [one.batch_size for one in found.tried] == [128]
    assert found.question.allowed <= 8 << 30
    assert "2 ranks on this host share its memory" in str(found)
    assert "256, 128 on each of 2 ranks" in str(found)


def fails(model: Any, batch: Any) -> Any:
    raise ZeroDivisionError("planted")


def test_a_job_that_fails_as_written_is_an_error() -> None:
    with pytest.raises(JobError, match=r"at batch size 32 the job fails: .*planted"):
        torchspeed.largest_batch(blobs_job(step=fails, **UNSUPERVISED), device="cpu")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ranks": 0}, "ranks=0"),
        ({"plan": torchspeed.Plan.of(batch_size=64)}, "leave it out of the plan"),
        ({"budget": "soon"}, "a budget is a time"),
    ],
)
def test_what_cannot_be_asked_is_said(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        torchspeed.fastest_batch(blobs_job(), device="cpu", **options)


def test_batch_sizes_are_not_written_into_a_plan(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(JOB)
    with pytest.raises(PlanError, match="leave out --out, --fresh: batch sizes are reported"):
        asked(tmp_path / "large.py", "--fastest-batch", "--out", str(tmp_path / "plan.toml"), "--fresh")
    with pytest.raises(PlanError, match="leave out --ranks"):
        asked(tmp_path / "large.py", "--ranks", "2")


GREEDY = """
import sys, numpy
from torchspeed.tuning.bench import keep_to_free_memory
kept = numpy.empty(int(sys.argv[1]), numpy.uint8)  # never touched, so nothing is used
del kept
keep_to_free_memory()
try:
    numpy.empty(int(sys.argv[1]), numpy.uint8)
except MemoryError:
    print("an error")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is one of Linux")
def test_a_trial_gets_an_error_where_the_machine_would_swap() -> None:
    more = free_memory() + (1 << 30)
    done = subprocess.run([sys.executable, "-c", GREEDY, str(more)], capture_output=True, text=True, check=False)
    if "MemoryError" in done.stderr:
        pytest.skip("this system gives nobody more memory than there is")
    assert done.stdout.strip() == "an error"
