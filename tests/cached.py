"""What the tests of the cache share: an entry whose every byte says which build it is of, and real processes."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from torchspeed.data.cache import Cache, Writer, open_or_build

KEY = "0123456789abcdef"
MIB = 1 << 20
Build = Callable[[Writer], None]
fork = multiprocessing.get_context("fork")


def filled(value: int, mebibytes: int = 0) -> Build:
    def build(writer: Writer) -> None:
        writer.array("images", np.uint8, (max(1, mebibytes) * 64, 128, 128))[:] = value
        writer.array("labels", np.int64, (3,))[:] = [value, 1, 2]

    return build


def never(writer: Writer) -> None:
    raise AssertionError("nothing was to be built")


def opened(root: Path, build: Build = never, **options: Any) -> Cache:
    return open_or_build(root, "photos", KEY, build, **options)


def value_of(cache: Cache) -> int:
    (value,) = np.unique(cache.arrays["images"])
    assert cache.arrays["labels"].tolist() == [value, 1, 2]
    return int(value)


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def rebuilt(root: Path, finding: str, **options: Any) -> None:
    """What lies there is refused for that reason, and built again as value 2."""
    cache = opened(root, filled(2), **options)
    assert cache.built
    assert value_of(cache) == 2
    assert finding in " ".join(cache.notes)
    assert folders(root) == [cache.path.name]
    assert value_of(opened(root, check_bytes=None)) == 2


def run(target: Callable[[], object]) -> Any:
    process = fork.Process(target=target)
    process.start()
    return process


def join(process: Any) -> None:
    process.join(20)
    assert process.exitcode == 0, "it hangs" if process.exitcode is None else process.exitcode


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def logged(log: Path, build: Build, then: Callable[[], object] = lambda: None) -> Build:
    """Leave a line in ``log`` for each build that begins."""

    def wrapped(writer: Writer) -> None:
        build(writer)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"built\n")
        os.close(descriptor)
        then()

    return wrapped
