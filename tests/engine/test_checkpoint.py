"""A checkpoint is whole or is not used: torn, flipped, edited, newer and foreign ones are refused by name."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from torchspeed.engine import checkpoint
from torchspeed.errors import CheckpointError, StorageError


def state(value: float = 1.0) -> dict[str, Any]:
    return {
        "model": {"weight": torch.full((8, 8), value), "bias": torch.zeros(3)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(8, 8)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        "position": {"step": int(value)},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (1, 2):
        checkpoint.save(tmp_path / "checkpoints", step, state(step), {"name": "test"})
    return tmp_path / "checkpoints"


def test_the_newest_comes_back_bit_for_bit(folder: Path) -> None:
    found, refused = checkpoint.newest(folder)
    assert found.step == 2
    assert refused == []
    assert found.about == {"name": "test"}
    assert torch.equal(found.state["model"]["weight"], torch.full((8, 8), 2.0))
    assert found.state["optimizer"]["param_groups"] == [{"lr": 0.1, "betas": (0.9, 0.99)}]
    assert found.state["optimizer"]["state"].keys() == {0}
    assert (folder / "latest").read_text() == "step-000000002"


def test_only_the_newest_are_kept(folder: Path) -> None:
    checkpoint.save(folder, 3, state(3), {})
    assert sorted(p.name for p in folder.glob("*")) == ["latest", "step-000000002", "step-000000003"]


@pytest.mark.parametrize("name", [*checkpoint.FILES, checkpoint.MANIFEST])
def test_one_flipped_bit_anywhere_is_caught(folder: Path, name: str) -> None:
    path = folder / "step-000000002" / name
    raw = path.read_bytes()
    for place in range(0, len(raw), max(1, len(raw) // 40)):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        found, refused = checkpoint.newest(folder)
        assert found.step == 1, place
        assert len(refused) == 1
        assert name in refused[0]
    path.write_bytes(raw)
    assert checkpoint.newest(folder)[0].step == 2


@pytest.mark.parametrize("name", [*checkpoint.FILES, checkpoint.MANIFEST])
def test_a_truncated_or_missing_file_is_caught(folder: Path, name: str) -> None:
    path = folder / "step-000000002" / name
    raw = path.read_bytes()
    for percent in range(0, 100, 5):
        path.write_bytes(raw[: len(raw) * percent // 100])
        assert checkpoint.newest(folder)[0].step == 1
    path.unlink()
    assert checkpoint.newest(folder)[0].step == 1


def test_an_edited_manifest_is_refused(folder: Path) -> None:
    path = folder / "step-000000002" / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "step": 7}))
    with pytest.raises(CheckpointError, match="damaged or edited"):
        checkpoint.load(path.parent)


def test_a_newer_format_is_refused_and_not_stepped_behind(folder: Path) -> None:
    path = folder / "step-000000002" / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(CheckpointError, match="format 2 is newer than 1"):
        checkpoint.newest(folder)


def test_a_manifest_cannot_name_other_files(folder: Path) -> None:
    path = folder / "step-000000002" / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["../../secret"] = manifest["files"].pop("state.json")
    manifest["digest"] = checkpoint._manifest_digest(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="expected"):
        checkpoint.load(path.parent)


def test_without_any_whole_checkpoint_each_finding_is_said(folder: Path) -> None:
    for step in (1, 2):
        (folder / f"step-00000000{step}" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-000000002.*step-000000001.*state.json"):
        checkpoint.newest(folder)


def test_no_pickle_is_in_it(folder: Path) -> None:
    names = {path.name for path in (folder / "step-000000002").iterdir()}
    assert names == {*checkpoint.FILES, checkpoint.MANIFEST}


@pytest.mark.parametrize("call", range(1, 9))
def test_a_full_disk_leaves_the_checkpoint_before(folder: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """The n-th fsync fails as it does on a full disk."""
    calls = 0
    fsync = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    try:
        checkpoint.save(folder, 3, state(3), {})
        failed = False
    except StorageError as error:
        failed = True
        assert "No space left on device" in str(error)  # noqa: PT017
    monkeypatch.undo()
    assert failed == (call <= 8)
    assert checkpoint.newest(folder)[0].step in (2, 3)
    assert not list(folder.glob(".writing-*"))


@pytest.mark.parametrize("call", range(1, 14))
def test_death_at_any_point_of_a_save_leaves_a_whole_checkpoint(folder: Path, call: int) -> None:
    """A real process kills itself at the n-th system call of the commit protocol."""
    child = os.fork()
    if child == 0:
        _die_at(call)
        checkpoint.save(folder, 2, state(5), {})  # over the same step, the hardest case
        checkpoint.save(folder, 3, state(3), {})
        os._exit(0)
    os.waitpid(child, 0)
    found, _ = checkpoint.newest(folder)
    assert found.step in (2, 3)
    assert float(found.state["model"]["weight"][0, 0]) in (2, 5, 3)
    checkpoint.save(folder, 4, state(4), {})
    assert checkpoint.newest(folder)[0].step == 4
    assert not list(folder.glob(".writing-*"))


def _die_at(call: int) -> None:
    calls = 0

    def counted(function: Any) -> Any:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), 9)
            return function(*arguments, **options)

        return wrapper

    os.fsync = counted(os.fsync)
    Path.rename = counted(Path.rename)  # type: ignore[method-assign]
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    shutil.rmtree = counted(shutil.rmtree)
