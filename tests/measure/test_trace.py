"""A trace is what the profiler writes, with the parts of a step as ranges of their own."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from torchspeed.engine.build import build
from torchspeed.errors import StorageError
from torchspeed.machine import Machine
from torchspeed.measure.trace import check_writable, write_trace
from torchspeed.plan import Plan
from torchspeed.run import Run


@pytest.fixture
def run() -> Run:
    return build(tiny.blobs_job(), Plan(), Machine.detect("cpu"))


def ranges(text: str) -> list[dict[str, Any]]:
    """Ranges with a name that somebody gave, in their order."""
    events = [event for event in json.loads(text)["traceEvents"] if event.get("cat") == "user_annotation"]
    return sorted(events, key=lambda event: float(event["ts"]))


def test_a_trace_names_the_parts_of_each_step_in_their_order(run: Run, tmp_path: Path) -> None:
    write_trace(run, tmp_path / "trace.json", steps=2)
    found = [event for event in ranges((tmp_path / "trace.json").read_text()) if "#" not in event["name"]]
    step = ["data", "transfer", "optimizer", "forward", "backward", "optimizer", "other"]
    assert [event["name"] for event in found] == step * 2
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_operations_lie_in_the_range_of_their_part(run: Run, tmp_path: Path) -> None:
    write_trace(run, tmp_path / "trace.json.gz", steps=1)
    text = gzip.decompress((tmp_path / "trace.json.gz").read_bytes()).decode()
    forward = next(event for event in ranges(text) if event["name"] == "forward")
    inside = [
        event["name"]
        for event in json.loads(text)["traceEvents"]
        if event.get("cat") == "cpu_op" and forward["ts"] <= event["ts"] <= forward["ts"] + forward["dur"]
    ]
    assert "aten::linear" in inside
    assert "AddmmBackward0" not in inside


def test_a_step_that_is_one_program_is_one_range(run: Run, tmp_path: Path) -> None:
    run.step_wrappers.append(lambda step: lambda batch: step(batch))
    write_trace(run, tmp_path / "trace.json", steps=1)
    names = [event["name"] for event in ranges((tmp_path / "trace.json").read_text()) if "#" not in event["name"]]
    assert names == ["data", "step", "other"]


@pytest.mark.parametrize("name", ["missing/trace.json", ""])
def test_a_path_that_cannot_be_written_is_said_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match=r"cannot be written: .*; name another file"):
        check_writable(tmp_path / name)


def test_looking_whether_a_path_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "trace.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "there.json").write_text("kept")
    check_writable(tmp_path / "there.json")
    assert (tmp_path / "there.json").read_text() == "kept"
