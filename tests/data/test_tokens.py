"""Files of tokens are mapped as they are, and what is not tokens is refused by name."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchspeed.data.random import sample_keys
from torchspeed.data.text import TokenWindows, Vocabulary
from torchspeed.data.tokens import read_tokens
from torchspeed.errors import DataError

TOKENS = np.random.default_rng(0).integers(0, 50_257, 1000)


def test_raw_tokens_are_16_bits_each_unless_told_otherwise_and_mapped(tmp_path: Path) -> None:
    TOKENS.astype("<u2").tofile(tmp_path / "train.bin")
    tokens = read_tokens(tmp_path / "train.bin")
    assert isinstance(tokens, np.memmap)
    assert not tokens.flags.writeable
    assert tokens.tolist() == TOKENS.tolist()
    TOKENS.astype("<u4").tofile(tmp_path / "train.bin")
    assert read_tokens(tmp_path / "train.bin", np.uint32).tolist() == TOKENS.tolist()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "<u4", "<i8", ">u2"])
def test_arrays_of_any_integers_are_mapped_and_cut_into_windows(dtype: str, tmp_path: Path) -> None:
    held = (TOKENS % 100).astype(dtype)
    np.save(tmp_path / "train.npy", held)
    tokens = read_tokens(tmp_path / "train.npy")
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == held.dtype
    windows = TokenWindows(tokens, 16, random=True)
    indices = np.arange(len(windows))
    for ours, plain in zip(
        windows.batch(indices, sample_keys(1, 2, indices)),
        TokenWindows(held.astype(np.int64), 16, random=True).batch(indices, sample_keys(1, 2, indices)),
        strict=True,
    ):
        assert ours.tolist() == plain.tolist()


def test_windows_of_a_mapped_file_read_it_where_it_lies(tmp_path: Path) -> None:
    TOKENS.astype("<u2").tofile(tmp_path / "train.bin")
    tokens = read_tokens(tmp_path / "train.bin")
    assert np.shares_memory(TokenWindows(tokens, 16, random=True).tokens, tokens)


def test_a_text_is_encoded_by_its_own_vocabulary_or_a_given_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abba")
    assert read_tokens(tmp_path / "a.txt").tolist() == [0, 1, 1, 0]
    assert read_tokens(tmp_path / "a.txt", vocabulary=Vocabulary("_ab")).tolist() == [1, 2, 2, 1]
    with pytest.raises(DataError, match="not in this vocabulary"):
        read_tokens(tmp_path / "a.txt", vocabulary=Vocabulary("ac"))


def npy(shape: tuple[int, ...], descr: str = "<u2", data: bytes = bytes(20)) -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


DAMAGED: dict[str, tuple[str, bytes, Any, str]] = {
    "nothing": ("a.bin", b"", None, "0 bytes are not a whole number, above 0, of tokens of 2 bytes"),
    "half a token": ("a.bin", bytes(5), None, "5 bytes are not a whole number"),
    "another type": ("a.bin", bytes(6), np.uint32, "6 bytes .* of tokens of 4 bytes"),
    "no integers": ("a.bin", bytes(8), np.float32, "cannot be read as float32"),
    "an empty array": ("a.npy", b"", None, "not a whole .npy file"),
    "no array": ("a.npy", b"hello, world", None, "not a whole .npy file"),
    "a cut header": ("a.npy", npy((10,))[:40], None, "not a whole .npy file"),
    "cut": ("a.npy", npy((10,))[:-1], None, "not a whole .npy file"),
    "longer than it says": ("a.npy", npy((9,)), None, "declares 9 tokens of 2 bytes where the file holds 20 bytes"),
    "4 exabytes": ("a.npy", npy((1 << 61,)), None, "a.npy: "),
    "a size that wraps around": ("a.npy", npy((1 << 63,)), None, "a.npy: "),
    "less than nothing": ("a.npy", npy((-10,)), None, "a.npy: "),
    "no tokens": ("a.npy", npy((0,), data=b""), None, "a.npy: "),
    "two dimensions": ("a.npy", npy((2, 5)), None, r"uint16 \[2, 5\]; tokens are one row of integers"),
    "floats": ("a.npy", npy((5,), "<f4"), None, r"float32 \[5\]; tokens are"),
    "not the type": ("a.npy", npy((10,)), np.uint8, "its tokens are uint16, not uint8"),
}


@pytest.mark.parametrize(("name", "data", "dtype", "finding"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_with_the_finding(
    name: str, data: bytes, dtype: Any, finding: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=finding):
        read_tokens(tmp_path / name, dtype)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    for name in ("a.bin", "a.npy", "a.txt"):
        with pytest.raises(DataError, match=rf"a\.{name[2:]}: cannot be read \(No such file"):
            read_tokens(tmp_path / name)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Canary(canary)))
    np.save(tmp_path / "objects.npy", np.array([Canary(canary)], object), allow_pickle=True)
    np.savez(tmp_path / "several", a=TOKENS)
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    for name in ("plain.npy", "objects.npy", "several.npy"):
        with pytest.raises(DataError, match=name):
            read_tokens(tmp_path / name)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists(), "the canary sings when it is opened"
