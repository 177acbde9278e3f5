"""A disk that is full, too small, or not to be written: an error with exit code 74, no signal, and nothing left."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cached import KEY, MIB, Build, filled, folders, join, never, opened, run, value_of
from torchspeed.data.cache import Writer, open_or_build
from torchspeed.errors import StorageError

ONES = filled(1)


def refused(root: Path, message: str, build: Build = ONES, **options: Any) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        opened(root, build, **options)
    assert caught.value.exit_code == 74
    if root.is_dir():
        assert folders(root) == []


def test_a_root_that_takes_no_files_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    refused(tmp_path / "file", "is a file; choose a folder for the cache", never)
    refused(tmp_path / "file" / "below", "cannot be written: Not a directory", never)
    refused(Path("/proc/cache"), "/proc/cache: the cache cannot be written: No such file", never)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_budget_is_held(root: Path) -> None:
    refused(root, r"bytes are free where 1,000,000,000,000,000,000 may be needed", never, budget_bytes=10**18)
    refused(root, r"with images.npy the cache needs 1,052,672 bytes, more than the 500,000", budget_bytes=500_000)

    def growing(writer: Writer) -> None:
        rows = writer.rows("rows", np.uint8)
        for _ in range(100):
            rows.append(np.zeros(1000, np.uint8))

    refused(root, "with rows.npy", growing, budget_bytes=50_000)
    assert opened(root, filled(1), budget_bytes=2 * MIB).built


def test_an_array_larger_than_the_disk_is_refused_before_the_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without filling the disk to find out: others may be using it."""
    monkeypatch.setattr(os, "posix_fallocate", lambda *arguments: pytest.fail("it was tried"))

    def build(writer: Writer) -> None:
        writer.array("images", np.uint8, (10**6, 10**6, 3))
        raise AssertionError("the work began")

    refused(root, r"cannot be written: .*: images.npy \(3,000,000,004,096 bytes, where [\d,]+ are free\)", build)


def swallowing(writer: Writer) -> None:
    rows = writer.rows("rows", np.uint8)
    with suppress(StorageError):
        for _ in range(64):
            rows.append(np.zeros(MIB, np.uint8))


@pytest.mark.parametrize("build", [filled(1, mebibytes=8), swallowing], ids=["fixed", "swallowed"])
def test_a_full_disk_is_an_error_and_no_signal(tmp_path: Path, build: Build) -> None:
    with small_disk(tmp_path / "disk") as disk:
        opened(disk / "cache", lambda writer: writer.array("a", "u1", (MIB,)).fill(1))
        with pytest.raises(StorageError, match=r"No space left on device: (images|rows)\.npy"):
            open_or_build(disk / "cache", "other", KEY, build)
        assert folders(disk / "cache") == [f"photos-{KEY}"]
        assert shutil.disk_usage(disk).free > MIB


def test_the_space_of_an_array_is_taken_before_it_is_filled(tmp_path: Path) -> None:
    """Each of the two would fit; filling both would end in SIGBUS, if making them had not failed."""

    def build(writer: Writer) -> None:
        for name in ("one", "two"):
            writer.array(name, np.uint8, (3 * MIB,))
        raise AssertionError("the work began")

    with small_disk(tmp_path / "disk") as disk:
        refused(disk / "cache", r"No space left on device: two\.npy \(3,149,824 bytes, where [\d,]+ are free\)", build)


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)  # a traceback may hold a mapping


def test_a_limit_on_file_sizes_is_an_error_and_no_signal(root: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        refused(root, r"File too large: images.npy \(8,392,704 bytes", filled(1, mebibytes=8))
        refused(root, "File too large: rows.npy", swallowing)

    join(run(limited))


@pytest.mark.parametrize("name", ["fsync", "fchmod", "pread", "rename"])
def test_any_call_may_fail_and_nothing_is_left(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, name, fails)
    refused(root, "cannot be written: Input/output error")
    monkeypatch.undo()
    assert opened(root, filled(1)).built


def test_without_reservation_the_space_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    entry = opened(root, filled(1, mebibytes=3)).path
    assert (entry / "images.npy").stat().st_blocks * 512 >= 3 * MIB
    assert value_of(opened(root)) == 1
