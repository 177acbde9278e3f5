"""How to know arrays and files again: digests that change whenever the content may have changed.

Two looks at a file give the same size and time although its content changed in between, if the change fell within
one tick of the file system's clock (a few milliseconds, on some 2 s), or if a program set the time of modification
back. The time of change of the inode (ctime) cannot be set, and a file whose ctime is younger than a tick at the
time of the look is read. The same race, and a way out of it, are described in Git's documentation: ``racy-git``.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from torchspeed.errors import DataError

_TICK_SECONDS = 3.0
_BYTES_AT_ONCE = 1 << 24


def array_identity(array: NDArray[Any]) -> str:
    """Of dtype, shape and content, also for an array that is mapped from a file: the file may have been replaced."""
    state = xxhash.xxh3_128(repr((array.dtype.str, array.shape)).encode())
    rows = max(1, _BYTES_AT_ONCE * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):  # what is not contiguous is copied, a little at a time
        state.update(np.ascontiguousarray(array[start : start + rows]).data)
    return state.hexdigest()


def files_identity(paths: Iterable[str]) -> str:
    """Of names, in order, sizes, times and inodes; and of content where these are too young to tell.

    So the first look at files that were just written gives another digest than the later ones, and a cache that was
    built at once is built again: once too often, never once too seldom. Raises ``DataError`` for a missing file.
    """
    state = xxhash.xxh3_128()
    young = set()
    for path in paths:
        try:
            entry = os.stat(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        facts = (path, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino)
        state.update(repr(facts).encode("utf-8", "surrogateescape"))
        if time.time() - entry.st_ctime_ns * 1e-9 < _TICK_SECONDS:  # also where the clock was set back since
            young.add(path)
    for path in sorted(young):
        state.update(read_file(path))
    return state.hexdigest()


def read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); restore it or take it out of the dataset")
