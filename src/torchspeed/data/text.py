"""Text as tokens, and windows of tokens in batches.

A language model reads T tokens and predicts, at each, the next one; so a sample is T + 1 tokens in a row. Tokens are
kept in the smallest type that holds them (one byte for up to 256 characters), maybe in a mapped file, and widened in
the batch alone: one pass reads T + 1 bytes and writes 16 T, so that it is the memory, written to, that limits it.
"""

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.batched import BatchedDataset
from torchspeed.data.buffers import Buffers
from torchspeed.data.kernels.windows import token_windows
from torchspeed.data.random import Keys, uniform
from torchspeed.errors import DataError

IGNORED = -100
"""The target that ``torch.nn.functional.cross_entropy`` leaves out (its ``ignore_index``)."""

_START_STREAM = 0


def read_text(path: str | Path) -> str:
    """The text of a file, line ends as they are. Raises ``DataError`` if it is empty or not UTF-8."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise DataError(f"{path}: empty")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start:,} (0x{data[error.start]:02x}) is not UTF-8; convert it, for example with: "
            f"iconv -f ISO-8859-1 -t UTF-8"
        ) from error


def python_library_sources(max_characters: int = 1_500_000) -> str:
    """The sources of Python's own standard library, a text that every machine has.

    The top-level modules in alphabetical order, as many as fit whole; those with a leading underscore, of which some
    are written at build time, are left out. So it is the same for all builds of one Python version.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    sources: list[str] = []
    total = 0
    for path in sorted(folder.glob("[!_]*.py")):
        source = read_text(path) if path.stat().st_size else ""
        total += len(source)
        if total > max_characters:
            break
        sources.append(source)
    if not sources:
        raise DataError(f"{folder}: Python's library has no sources here; give a text file instead")
    return "".join(sources)


@dataclass(frozen=True)
class Vocabulary:
    """The characters of a text, in order of their code points; a token is a position in ``characters``."""

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or list(self.characters) != sorted(set(self.characters)):
            raise DataError("the characters of a vocabulary must be at least one, sorted, each once: use Vocabulary.of")

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """The vocabulary of all characters in ``text``."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> NDArray[Any]:
        """Tokens [characters], in the smallest of uint8, uint16 and int64. Raises ``DataError`` for an unknown one."""
        known, found = _code_points(self.characters), _code_points(text)
        tokens = np.minimum(np.searchsorted(known, found), len(known) - 1)
        wrong = np.flatnonzero(known[tokens] != found)
        if wrong.size:
            position = int(wrong[0])
            character = text[position]
            raise DataError(
                f"character {character!r} (U+{ord(character):04X}) at position {position:,}, line "
                f"{text.count(chr(10), 0, position) + 1}, is not in this vocabulary of {len(self)} characters"
            )
        return tokens.astype(np.uint8 if len(known) <= 1 << 8 else np.uint16 if len(known) <= 1 << 16 else np.int64)

    def decode(self, tokens: NDArray[Any] | Tensor) -> str:
        """The text of ``tokens`` [characters]. Raises ``DataError`` for a token that is none."""
        numbers = np.asarray(tokens).astype(np.int64)
        wrong = np.flatnonzero((numbers < 0) | (numbers >= len(self)))
        if wrong.size:
            raise DataError(
                f"token {numbers[wrong[0]]} at position {wrong[0]:,} is not one of this vocabulary's {len(self)}"
            )
        return str(_code_points(self.characters)[numbers].tobytes().decode("utf-32-le", "surrogatepass"))


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


class TokenWindows(BatchedDataset):
    """``tokens`` [N], any integer type -> (inputs int64 [B, length], targets int64 [B, length], one token later).

    For training (``random=True``) an epoch has N // length windows. The places where a window can begin are cut into
    as many equal stretches, and each window begins anywhere in its own: an epoch reads evenly from all of the text,
    each epoch is aligned differently, and every place is equally likely.

    For evaluation (``random=False``) the windows lie end to end, so that every token but the first is the target
    exactly once. The last window is moved back to end with the text, and those of its targets that the window before
    it has already are ``IGNORED``: so a metric must count the other targets, not the windows.

    Raises ``DataError`` if there are not length + 1 tokens.
    """

    threads = True

    def __init__(self, tokens: NDArray[Any], length: int, *, random: bool) -> None:
        if length < 1 or tokens.ndim != 1 or tokens.dtype.kind not in "ui":
            raise DataError(
                f"tokens {tokens.dtype} {list(tokens.shape)} in windows of {length}: integers [N] are needed"
            )
        if len(tokens) < length + 1:
            raise DataError(f"{len(tokens)} tokens; windows of {length} need {length + 1} at least")
        # Only tokens in another byte order, or with gaps between them, are copied.
        self.tokens = np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("="))
        self.length, self.random = length, random
        self.buffers = Buffers()

    def __len__(self) -> int:
        return len(self.tokens) // self.length if self.random else -(-(len(self.tokens) - 1) // self.length)

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> tuple[Tensor, Tensor]:
        if self.random:
            places = len(self.tokens) - self.length  # where a window can begin
            starts = ((indices + uniform(keys, _START_STREAM)) * (places / len(self))).astype(np.int64)
            starts = np.minimum(starts, places - 1)  # rounding could go one too far
        else:
            starts = indices * self.length
        inputs = self.buffers.take((len(indices), self.length), np.int64)
        targets = self.buffers.take((len(indices), self.length), np.int64)
        token_windows(self.tokens, starts, IGNORED, inputs, targets)
        return torch.from_numpy(inputs), torch.from_numpy(targets)
