"""Text becomes tokens and back, and every token is learnt from."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from torchspeed.data.kernels.windows import token_windows
from torchspeed.data.random import permutation, sample_keys, uniform
from torchspeed.data.text import IGNORED, TokenWindows, Vocabulary, python_library_sources, read_text
from torchspeed.errors import DataError


def test_text_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("naïve\r\n€\n".encode())
    assert read_text(tmp_path / "a.txt") == "naïve\r\n€\n"


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"caf\xe9 au lait", r"byte 3 \(0xe9\) is not UTF-8"),
        (b"ab\xe2\x82", r"byte 2 \(0xe2\)"),
        (b"", "empty"),
    ],
)
def test_text_that_is_not_utf8_or_empty_is_named(data: bytes, finding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.txt: {finding}"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"b\.txt: cannot be read \(No such file"):
        read_text(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("hello\n€😀", np.uint8),
        ("".join(map(chr, range(1000))), np.uint16),
        ("".join(map(chr, range(66000))), np.int64),
    ],
    ids=["few", "1000", "66000"],
)
def test_encoding_is_undone_by_decoding_and_kept_small(text: str, dtype: type) -> None:
    vocabulary = Vocabulary.of(text)
    tokens = vocabulary.encode(text)
    assert tokens.dtype == dtype
    assert vocabulary.decode(tokens) == text
    assert tokens.tolist() == [vocabulary.characters.index(c) for c in text] or len(text) == 66000
    assert vocabulary == Vocabulary(vocabulary.characters)


def test_unknown_characters_and_tokens_are_named_with_their_position() -> None:
    vocabulary = Vocabulary.of("abc\n")
    with pytest.raises(DataError, match=r"character 'é' \(U\+00E9\) at position 5, line 2, is not .* of 4 characters"):
        vocabulary.encode("abc\nbéd")
    with pytest.raises(DataError, match="token 4 at position 1"):
        vocabulary.decode(torch.tensor([0, 4]))
    with pytest.raises(DataError, match="token -1 at position 0"):
        vocabulary.decode(torch.tensor([-1]))
    for characters in ("", "ba", "aa"):
        with pytest.raises(DataError, match=r"Vocabulary\.of"):
            Vocabulary(characters)
    assert vocabulary.encode("").tolist() == []


@pytest.mark.parametrize("n", [9, 10, 11, 12, 16, 17, 33, 100])
def test_evaluation_predicts_every_token_but_the_first_exactly_once(n: int) -> None:
    tokens = np.arange(n, dtype=np.uint8)
    windows = TokenWindows(tokens, 8, random=False)
    indices = np.arange(len(windows))
    inputs, targets = windows.batch(indices, sample_keys(0, 0, indices))
    assert inputs.shape == targets.shape == (len(windows), 8)
    counted = targets != IGNORED
    assert targets[counted].tolist() == list(range(1, n))
    assert (targets[counted] == inputs[counted] + 1).all()


def test_a_shuffled_evaluation_predicts_them_exactly_once_too() -> None:
    windows = TokenWindows(np.arange(31, dtype=np.uint8), 8, random=False)
    order = np.array([3, 1, 0, 2])  # the window that is moved back, to have an end, comes first
    parts = [windows.batch(part, sample_keys(0, 0, part))[1] for part in np.array_split(order, 2)]
    targets = torch.cat(parts)
    assert sorted(targets[targets != IGNORED].tolist()) == list(range(1, 31))
    in_order = windows.batch(np.arange(4), sample_keys(0, 0, order))[1]
    assert torch.equal(targets, in_order[order])
    assert (in_order == IGNORED).sum(1).tolist() == [0, 0, 0, 2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_training_windows_are_pieces_of_the_text_shifted_by_one(dtype: type) -> None:
    tokens = np.arange(200, dtype=dtype)
    windows = TokenWindows(tokens, 16, random=True)
    assert len(windows) == 12
    indices = np.array([11, 0, 5, 5])
    inputs, targets = windows.batch(indices, sample_keys(0, 3, indices))
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(16))
    assert torch.equal(targets, inputs + 1)


def test_training_windows_cover_the_text_in_every_epoch_and_are_not_always_aligned() -> None:
    n, length = 1003, 16
    windows = TokenWindows(np.arange(n), length, random=True)
    indices = np.arange(len(windows))
    starts = np.stack([windows.batch(indices, sample_keys(0, e, indices))[0][:, 0].numpy() for e in range(400)])
    assert (np.diff(starts, axis=1) >= 0).all(), "each window stays in its own stretch"
    assert np.diff(starts, axis=1).max() <= 2 * length, "so no long piece is left out"
    counts = np.bincount(starts.ravel(), minlength=n - length)
    assert len(counts) == n - length
    expected = starts.size / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5, "every place is equally likely"


def test_where_windows_begin_is_drawn_from_the_first_stream_of_each_key() -> None:
    """Runs of earlier versions are resumed and repeated with the same windows."""
    windows = TokenWindows(np.arange(1003), 16, random=True)
    indices = permutation(0, 7, len(windows))
    keys = sample_keys(0, 7, indices)
    starts = ((indices + uniform(keys, 0)) * ((1003 - 16) / len(windows))).astype(int)
    assert windows.batch(indices, keys)[0][:, 0].tolist() == starts.tolist()


def test_batches_from_threads_are_those_of_one_thread_and_stay_as_they_are() -> None:
    windows = TokenWindows(np.arange(5000, dtype=np.uint16), 16, random=True)
    assert windows.threads
    requests = [(part, sample_keys(0, 0, part)) for part in np.arange(300).reshape(30, 10)]
    alone = [tuple(part.clone() for part in windows.batch(*request)) for request in requests]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda request: windows.batch(*request), requests))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_no_window_leaves_the_tokens() -> None:
    tokens, starts = np.arange(10, dtype=np.uint8), np.array([-5, 0, 7, 8, 9, 1 << 40])
    inputs, targets = np.empty((2, 6, 2), np.int64)
    token_windows(tokens, starts, IGNORED, inputs, targets)
    assert inputs.tolist() == [[0, 1], [0, 1], [7, 8], [7, 8], [7, 8], [7, 8]]
    none = [IGNORED, IGNORED]
    assert targets.tolist() == [[1, 2], [1, 2], [8, 9], [IGNORED, 9], none, none]


def test_tokens_may_be_mapped_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(100, dtype=np.uint16))
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    inputs, _ = TokenWindows(mapped, 9, random=False).batch(np.array([1]), sample_keys(0, 0, np.array([1])))
    assert inputs[0].tolist() == list(range(9, 18))


def test_too_little_text_is_refused() -> None:
    assert len(TokenWindows(np.arange(9), 8, random=True)) == len(TokenWindows(np.arange(9), 8, random=False)) == 1
    with pytest.raises(DataError, match="8 tokens; windows of 8 need 9"):
        TokenWindows(np.arange(8), 8, random=True)
    with pytest.raises(DataError, match="integers"):
        TokenWindows(np.zeros(100), 8, random=True)


def test_python_library_sources_are_whole_modules_within_the_limit() -> None:
    text = python_library_sources()
    assert 1_000_000 < len(text) <= 1_500_000
    assert text == python_library_sources()
    compile(python_library_sources(60_000).replace("from __future__", "pass # from __future__"), "library", "exec")
    with pytest.raises(DataError, match="no sources"):
        python_library_sources(10)


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "shakespeare" / "input.txt"


@pytest.mark.skipif(not SHARED.is_file(), reason=f"{SHARED} is absent")
def test_the_real_plays_have_65_characters() -> None:
    text = read_text(SHARED)
    vocabulary = Vocabulary.of(text)
    assert len(text) == 1_115_394
    assert len(vocabulary) == 65
    assert vocabulary.decode(vocabulary.encode(text)) == text
