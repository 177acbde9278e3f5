"""Limits are measured once per machine, and no state of the cache folder keeps them from being measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchspeed.machine import Machine
from torchspeed.measure import probes
from torchspeed.measure.limits import Limits, measured_limits

KNOWN = Limits(
    matrix_flops=(("float32", 195e9), ("bfloat16", 783e9)),
    memory_bandwidth=15e9,
    cache_bandwidth=((2**18, 120e9), (2**20, 100e9), (2**24, 40e9), (2**28, 15e9)),
    host_to_device=None,
    disk_read=1.2e9,
    dispatch_seconds=4e-6,
    threads=2,
    date="2025-01-01T00:00:00+00:00",
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; each rate is measured as briefly as can be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("_STREAM_SECONDS", "_MATRIX_SECONDS", "_DISK_SECONDS"):
        monkeypatch.setattr(probes, name, 0.001)
    monkeypatch.setattr(probes, "_CPU_STREAMS", (2**18, 2**22))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    return tmp_path / "torchspeed"


def marked(cache: Path) -> Path:
    """The file that holds the limits, its date changed so that it is known again."""
    (path,) = (cache / "limits").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "date": "before"}))
    return path


def test_what_was_measured_is_kept(cache: Path) -> None:
    machine = Machine.detect("cpu")
    first = measured_limits(machine)
    assert first.rate("float32") > 1e8
    assert first.memory_bandwidth > 1e7
    assert 1e-8 < first.dispatch_seconds < 1e-3
    marked(cache)
    assert measured_limits(machine) == replace(first, date="before")
    assert measured_limits(machine, fresh=True).date != "before"


def test_another_number_of_threads_is_measured_anew(cache: Path) -> None:
    machine = Machine.detect("cpu")
    measured_limits(machine)
    marked(cache)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        limits = measured_limits(machine)
        assert limits.date != "before"
        assert limits.threads == threads + 1 == torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("damage", ["\udcff", '{"matrix_flops": [["float32", -1]]}'])
def test_a_damaged_file_is_measured_anew_and_said(cache: Path, damage: str) -> None:
    machine = Machine.detect("cpu")
    measured_limits(machine)
    (path,) = (cache / "limits").iterdir()
    path.write_bytes(damage.encode("utf-8", "surrogateescape"))
    limits = measured_limits(machine)
    assert any(str(path) in note and "measured again" in note for note in limits.notes)
    assert measured_limits(machine) == replace(limits, notes=limits.notes[:-1])


def test_a_file_in_place_of_the_cache_folder_is_no_obstacle(cache: Path) -> None:
    cache.write_text("not a folder")
    limits = measured_limits(Machine.detect("cpu"))
    assert limits.rate("float32") > 0
    assert any("cannot be kept" in note for note in limits.notes)
    assert cache.read_text() == "not a folder"


def test_a_disk_that_cannot_be_told_from_memory_has_no_rate() -> None:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("there is no file system in memory here")
    rate, reason = probes.disk_read(folder)
    assert rate is None
    assert "in memory" in reason


def test_formats_without_units_are_not_tried(cache: Path) -> None:
    machine = replace(Machine.detect("cpu"), instruction_sets=())
    limits = measured_limits(machine)
    assert [name for name, _ in limits.matrix_flops] == ["float32"]
    assert limits.rate(torch.float16) == limits.rate("bfloat16") == limits.rate("float32")


def test_limits_are_told_in_one_line() -> None:
    assert str(KNOWN) == "fp32 195, bf16 783 GFLOP/s · memory 15 GB/s · disk 1.2 GB/s · 4.0 µs per operation"
    large = replace(KNOWN, matrix_flops=(("float32", 51e12),), host_to_device=55e9)
    assert str(large).startswith("fp32 51 TFLOP/s · memory 15 GB/s · host to device 55 GB/s · disk")


def test_what_fits_a_cache_may_move_as_fast_as_the_cache() -> None:
    assert KNOWN.bandwidth(1) == KNOWN.bandwidth(2**19) == 120e9
    assert KNOWN.bandwidth(2**20) == 100e9
    assert KNOWN.bandwidth(2**27) == 40e9  # between a cache and memory, the faster of the two
    assert KNOWN.bandwidth(2**30) == KNOWN.memory_bandwidth
    assert replace(KNOWN, cache_bandwidth=()).bandwidth(1) == KNOWN.memory_bandwidth


def test_what_was_measured_on_a_busy_machine_is_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.detect("cpu")
    monkeypatch.setattr("os.getloadavg", lambda: (100.0, 100.0, 100.0))
    first = measured_limits(machine)
    assert first.busy
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    second = measured_limits(machine)
    assert not second.busy
    assert second.rate("float32") >= first.rate("float32")
    assert second.dispatch_seconds <= first.dispatch_seconds
    marked(cache)
    assert measured_limits(machine).date == "before"
