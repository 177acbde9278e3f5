"""One build, whoever else wants it and whoever dies: all or nothing, and nothing left over."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from cached import KEY, filled, folders, fork, join, logged, opened, run, value_of, wait_for
from torchspeed.data.cache import open_or_build, store
from torchspeed.errors import StorageError


def test_eight_processes_build_once(root: Path, tmp_path: Path) -> None:
    log, start = tmp_path / "log", fork.Event()

    def worker() -> None:
        start.wait()
        cache = opened(root, logged(log, filled(5), lambda: time.sleep(0.3)), check_bytes=None)
        assert value_of(cache) == 5
        assert cache.built or "waited" in cache.notes[0]

    processes = [run(worker) for _ in range(8)]
    start.set()
    for process in processes:
        join(process)
    assert log.read_text() == "built\n"
    assert folders(root) == [f"photos-{KEY}"]


def test_without_the_lock_several_build(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what the lock prevents does happen here."""
    log, all_are_building = tmp_path / "log", fork.Barrier(3)
    monkeypatch.setattr(store, "_hold", lambda entry, wait_seconds: nullcontext())
    monkeypatch.setattr(store, "_sweep", lambda root, held: [])
    root.mkdir()

    def worker() -> None:
        with suppress(StorageError):  # all but the first find the place taken
            opened(root, logged(log, filled(5), lambda: all_are_building.wait(20)))

    for process in [run(worker) for _ in range(3)]:
        join(process)
    assert log.read_text() == "built\n" * 3


def test_threads_of_one_process_build_once(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ThreadPoolExecutor(4) as pool:
        caches = [pool.submit(opened, root, logged(log, filled(5), lambda: time.sleep(0.2))) for _ in range(4)]
        assert [value_of(cache.result()) for cache in caches] == [5] * 4
    assert log.read_text() == "built\n"


def test_a_builder_that_is_killed_is_replaced_by_a_waiter(root: Path, tmp_path: Path) -> None:
    """Its children outlive it and must not keep the lock that they were born under."""
    log, child = tmp_path / "log", tmp_path / "child"

    def linger() -> None:
        if pid := os.fork():
            child.write_text(str(pid))
        time.sleep(60)

    builder = run(lambda: opened(root, logged(log, filled(1), linger)))
    wait_for(child)
    waiters = [run(lambda: opened(root, logged(log, filled(2)))) for _ in range(3)]
    time.sleep(0.3)
    assert log.read_text() == "built\n", "the waiters wait"
    builder.kill()
    try:
        for waiter in waiters:
            join(waiter)
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)
    assert log.read_text() == "built\n" * 2
    assert value_of(opened(root)) == 2
    assert folders(root) == [f"photos-{KEY}"]


def test_death_at_any_point_leaves_all_or_nothing(root: Path, entry: Path) -> None:
    """A process kills itself at the n-th system call of replacing a damaged entry, for every n."""
    template = root.with_name("template")
    (entry / "labels.npy").unlink()
    root.rename(template)
    for call in itertools.count(1):
        shutil.copytree(template, root)

        def die(call: int = call) -> None:
            die_at(call)
            assert value_of(opened(root, filled(2))) == 2

        process = run(die)
        process.join(20)
        assert value_of(opened(root, filled(2), check_bytes=None)) == 2, call
        open_or_build(root, "other", KEY, lambda writer: None)  # whoever builds next sweeps
        assert folders(root) == [f"other-{KEY}", f"photos-{KEY}"], call
        shutil.rmtree(root)
        if process.exitcode == 0:
            assert call > 15
            return
        assert process.exitcode == -signal.SIGKILL


def die_at(call: int) -> None:
    calls = itertools.count(1)

    def counted(function: Any) -> Any:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper

    for module, name in [
        *((os, name) for name in ("mkdir", "rename", "fsync", "fchmod", "posix_fallocate", "unlink", "rmdir")),
        (shutil, "rmtree"),
    ]:
        setattr(module, name, counted(getattr(module, name)))


def test_a_builder_that_is_frozen_is_not_waited_for_longer_than_asked(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    builder = run(lambda: opened(root, logged(log, filled(1), lambda: time.sleep(60))))
    wait_for(log)
    os.kill(builder.pid, signal.SIGSTOP)

    def waits() -> None:
        with pytest.raises(StorageError, match=f"another process has been building .*-{builder.pid}-"):
            opened(root, filled(2), wait_seconds=0.1)

    join(run(waits))
    open_or_build(root, "other", KEY, filled(0))
    assert any(name.startswith(".building") for name in folders(root)), "what a living process builds is not swept"
    builder.kill()
    builder.join()
    assert "left by a process that died" in open_or_build(root, "third", KEY, filled(0)).notes[0]
    assert folders(root) == [f"other-{KEY}", f"third-{KEY}"]


def test_ctrl_c_leaves_nothing(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupted() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            opened(root, logged(log, filled(1), lambda: time.sleep(60)))
        assert folders(root) == []
        assert value_of(opened(root, filled(2))) == 2

    process = run(interrupted)
    wait_for(log)
    os.kill(process.pid, signal.SIGINT)
    join(process)


def test_the_order_on_the_disk_is_files_manifest_folder_name_parent(root: Path, tmp_path: Path) -> None:
    """Killing a process tests no fsync, since the page cache outlives it: look at the calls themselves."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace, go = tmp_path / "trace", fork.Event()

    def build() -> None:
        go.wait()
        opened(root, filled(1))

    process = run(build)
    calls = "trace=fsync,fdatasync,msync,rename,renameat,renameat2"
    command = ["strace", "-f", "-y", "-s", "300", "-o", trace, "-e", calls, "-p", str(process.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        if "attached" not in (said := strace.stderr.readline()):
            process.kill()
            pytest.skip(f"strace may not look at processes here: {said.strip()}")
        go.set()
        join(process)
    wanted = [
        *(rf"fsync\(\d+<.*/\.building-[^/]*/{name}>" for name in ("images.npy", "labels.npy", "cache.json")),
        r"fsync\(\d+<.*/\.building-[^/]*>",
        r"rename.*\.building-",
        rf"fsync\(\d+<{re.escape(str(root))}>",
    ]
    lines = trace.read_text().splitlines()
    order = [min(i for i, line in enumerate(lines) if re.search(mark, line)) for mark in wanted]
    assert order == sorted(set(order)), lines
