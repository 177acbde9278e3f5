"""A pickle is read for its data alone: nothing in it ever runs."""

import contextlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchspeed.data.safe_pickle import read_pickled_arrays
from torchspeed.errors import DataError


def python2_pickle(planes: np.ndarray, labels: list[int], module: bytes = b"numpy.core.multiarray") -> bytes:
    """The instructions of a file of the python archive: protocol 2, strings of Python 2."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    raw = planes.tobytes()
    dtype = (
        b"cnumpy\ndtype\n"
        + string(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + string(b"|")
        + b"NNN"
        + number(-1) * 2
        + b"K\x00tb"
    )
    array = (
        b"c" + module + b"\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R(K\x01"
        + number(planes.shape[0]) + number(planes.shape[1]) + b"\x86" + dtype
        + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip
    return (
        b"\x80\x02}q\x01(" + string(b"batch_label") + string(b"training batch 1 of 5")
        + string(b"labels") + b"](" + b"".join(number(label) for label in labels) + b"e"
        + string(b"data") + array + b"u."
    )  # fmt: skip


PLANES = np.arange(24, dtype=np.uint8).reshape(2, 12)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_a_python_2_pickle_gives_what_unpickling_it_gives(module: bytes) -> None:
    data = python2_pickle(PLANES, [3, 7], module)
    read = read_pickled_arrays(data, "file")
    trusted = pickle.loads(data.replace(module, np._core.multiarray.__name__.encode()), encoding="bytes")
    assert list(read) == list(trusted) == [b"batch_label", b"labels", b"data"]
    assert read[b"labels"] == trusted[b"labels"]
    np.testing.assert_array_equal(read[b"data"], trusted[b"data"], strict=True)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    "array",
    [
        PLANES,
        PLANES.astype(">i4"),
        np.asfortranarray(PLANES).astype(np.float32),
        np.zeros((0, 5)),
        PLANES > 3,
    ],
    ids=["bytes", "big endian", "columns first", "empty", "bool"],
)
def test_arrays_of_plain_numbers_survive(protocol: int, array: np.ndarray) -> None:
    read = read_pickled_arrays(pickle.dumps({"a": array, "n": [1, 2.5, None, True, (b"x", "y")]}, protocol), "file")
    np.testing.assert_array_equal(read["a"], array, strict=True)
    assert read["n"] == [1, 2.5, None, True, (b"x", "y")]


class Touch:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_does_nothing(protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps({b"labels": [Touch(canary)], b"data": PLANES}, protocol)
    finding = f"it asks for {os.mkdir.__module__}.mkdir" if protocol >= 3 else ""  # older ones fail on the bytes
    with pytest.raises(DataError, match=rf"^batch_7: refused \({finding}"):
        read_pickled_arrays(data, "batch_7")
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists(), "the negative control: the real unpickler runs it"


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
DTYPE = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
NESTED = b")" + b"q\x00h\x00\x86" * 64  # its hash, its text and comparing it take 2**64 steps
HOSTILE = {
    "another NumPy function": b"}U\x01kcnumpy\nfromfile\n(U\x01xtRs.",
    "a dotted name": b"}U\x01kcnumpy\nndarray.tofile\n(U\x01xtRs.",
    "the ndarray called": b"}U\x01kcnumpy\nndarray\n(K\x01tRs.",
    "a class among the data": b"}U\x01kcnumpy\nndarray\ns.",
    "an array of objects": b"}U\x01kcnumpy\ndtype\n(U\x01OK\x00K\x01tRs.",
    "a subclass of arrays": b"}U\x01k" + ARRAY.replace(b"cnumpy\nndarray\n", b"cnumpy\nmemmap\n") + b"s.",
    "an array without content": b"}U\x01k" + ARRAY + b"s.",
    "a shape beyond its bytes": b"}U\x01k" + ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + b"\x89U\x01xtbs.",
    "a negative side": b"}U\x01k" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89U\x01xtbs.",
    "state set on a dictionary": b"}}b.",
    "a persistent id": b"Pxyz\n.",
    "an extension code": b"\x82\x01.",
    "a new object": b"cnumpy\nndarray\n)\x81.",
    "not a dictionary": b"K\x01.",
    "a key that nests": b"}" + NESTED + b"K\x01s.",
    "a global that nests": b"}U\x01k" + NESTED * 2 + b"\x93s.",
    "a function that nests": b"}U\x01k" + NESTED + b")Rs.",
    "a shape that nests": b"}U\x01k" + ARRAY + b"(K\x01" + NESTED + DTYPE + b"\x89U\x01xtbs.",
    "a memo that is not there": b"}h\x09.",
    "a mark that is not there": b"}u.",
    "a set of nothing": b"s.",
    "no end": b"}",
    "nothing": b"",
    "text": b"hello, world\n",
    "a length beyond reason": b"}U\x01kB\xff\xff\xff\x7fxs.",
    "a huge memo": b"}r\xff\xff\xff\xffU\x01kK\x01s",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_everything_else_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^file: refused"):
        read_pickled_arrays(data, "file")


def test_a_torn_or_damaged_pickle_is_refused_or_read_but_never_another_error() -> None:
    data = python2_pickle(PLANES, [3, 7])
    for length in range(len(data)):
        with pytest.raises(DataError):
            read_pickled_arrays(data[:length], "file")
    random = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] = random.integers(256)
        with contextlib.suppress(DataError):
            read_pickled_arrays(bytes(damaged), "file")
