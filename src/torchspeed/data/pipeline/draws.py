"""``Draws``: what PyTorch's and Python's generators give each sample of a batch, all at once.

Before a sample is loaded as written, the generators are seeded with its key (``torchspeed.data.loader``), and the
transforms then draw one number after another. Here the same numbers are computed for a whole batch: one column of
words per sample and a cursor that says how many a sample has used. So a compiled pipeline does not merely draw from
the same distributions as the user's code, it draws the same values.

What is replayed: ``torch.rand(1)``, ``torch.empty(1).uniform_(a, b)``, ``torch.randint(a, b, (1,))``,
``torch.randperm(n)``, ``torch.multinomial(p, 1)`` on the CPU (PyTorch's ATen/core/DistributionsHelper.h,
ATen/core/TransformationHelper.h, ATen/native/cpu/DistributionTemplates.h), and ``random.random()``,
``random.choices``, ``random.shuffle`` (CPython's Modules/_randommodule.c, Lib/random.py). A test compares each with the
real one.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.mersenne import STATE, python_words, torch_words
from torchspeed.data.random import Keys
from torchspeed.errors import NotApplicable

Mask = NDArray[np.bool_]
Values = NDArray[np.floating[Any]]  # [B]
_LOW = np.uint64(0xFFFFFFFF)
_FIRST_WORDS = 16  # most chains draw fewer; who needs more gets them


class Draws:
    """Draws of B samples, one value each per call; those that ``only`` leaves out draw nothing and get rubbish."""

    def __init__(self, keys: Keys) -> None:
        self._torch = _Stream((keys & _LOW).astype(np.uint32), torch_words)
        self._python = _Stream(keys, python_words)
        self._only: Mask | None = None

    def only(self, where: Mask) -> "Draws":
        """The same draws, for the samples where ``where`` [B] is true."""
        draws = object.__new__(Draws)
        draws._torch, draws._python = self._torch, self._python
        draws._only = where if self._only is None else self._only & where
        return draws

    def rand(self) -> NDArray[np.float32]:
        """``torch.rand(1)``: float32 [B] in [0, 1)."""
        return (self._torch.take(self._only) & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)

    def uniform(self, low: float | Values, high: float | Values) -> NDArray[np.float32]:
        """``torch.empty(1).uniform_(low, high)``: float32 [B]; the bounds: one for all or [B]."""
        # PyTorch multiplies and adds with one rounding; so does float64, whose product of two float32 is exact.
        start = np.asarray(low, np.float32)
        span = (np.asarray(high, np.float32) - start).astype(np.float64)
        return (self.rand().astype(np.float64) * span + start.astype(np.float64)).astype(np.float32)

    def randint(self, low: int, high: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """``torch.randint(low, high, (1,))``: int64 [B]; ``high``: one for all or [B], at most 2**28 above ``low``."""
        span = np.maximum(np.asarray(high, np.int64) - low, 1).astype(np.uint32)
        return (self._torch.take(self._only) % span).astype(np.int64) + low

    def randperm(self, n: int) -> NDArray[np.int64]:
        """``torch.randperm(n)``: int64 [B, n]."""
        batch = self._torch.batch
        order = np.broadcast_to(np.arange(n), (batch, n)).copy()
        rows = np.arange(batch)
        for i in range(n - 1):
            other = self.randint(0, n - i) + i
            order[rows, other], order[:, i] = order[:, i].copy(), order[rows, other]
        return order

    def multinomial(self, weights: Sequence[float]) -> NDArray[np.int64]:
        """``torch.multinomial(torch.tensor(weights), 1)``: int64 [B]."""
        chances = []
        for weight in np.asarray(weights, np.float32):
            high = self._torch.take(self._only).astype(np.uint64) << np.uint64(32)
            bits = (high | self._torch.take(self._only).astype(np.uint64)) & np.uint64(2**53 - 1)
            waiting = -np.log1p(-(bits * 2.0**-53)).astype(np.float32)  # exponential; whoever waits least is chosen
            chances.append(weight / np.maximum(waiting, np.float32(1e-45)))
        chosen: NDArray[np.int64] = np.argmax(chances, axis=0)
        return chosen

    def python_random(self) -> NDArray[np.float64]:
        """``random.random()``: float64 [B] in [0, 1)."""
        high = self._python.take(self._only) >> np.uint32(5)
        low = self._python.take(self._only) >> np.uint32(6)
        return (high * 67108864.0 + low) / 9007199254740992.0

    def python_choice(self, n: int, weights: Sequence[float] | None = None) -> NDArray[np.int64]:
        """``random.choices(range(n), weights)[0]``: int64 [B]."""
        if weights is None:
            return (self.python_random() * float(n)).astype(np.int64)
        cumulative = list(itertools.accumulate(weights))
        places = np.searchsorted(cumulative[:-1], self.python_random() * float(cumulative[-1]), side="right")
        return places.astype(np.int64)

    def python_shuffle(self, n: int) -> NDArray[np.int64]:
        """``random.shuffle(list(range(n)))``: int64 [B, n], the list afterwards."""
        order = np.broadcast_to(np.arange(n), (self._python.batch, n)).copy()
        rows = np.arange(len(order))
        for last in range(n - 1, 0, -1):
            other = self._python_below(last + 1)
            order[rows, other], order[:, last] = order[:, last].copy(), order[rows, other]
        return order

    def _python_below(self, n: int) -> NDArray[np.int64]:
        """``random.randrange(n)``: as many bits as ``n`` has, again and again until they are below it."""
        shift = np.uint32(32 - n.bit_length())
        result = np.zeros(self._python.batch, np.int64)
        missing = np.ones(self._python.batch, np.bool_) if self._only is None else self._only
        while missing.any():
            drawn = (self._python.take(missing) >> shift).astype(np.int64)
            result = np.where(missing & (drawn < n), drawn, result)
            missing = missing & (drawn >= n)
        return result


class _Stream:
    """Words [K, B] of B generators, and how many of them each has given."""

    def __init__(self, seeds: NDArray[Any], generate: Callable[[Any, NDArray[np.uint32]], None]) -> None:
        self.seeds, self.generate, self.batch = seeds, generate, len(seeds)
        self.words = np.empty((0, self.batch), np.uint32)
        self.used = 0  # the most that any has given
        self.each: NDArray[np.int64] | None = None  # given by each, or None while all have given as many

    def take(self, only: Mask | None) -> NDArray[np.uint32]:
        if only is not None and not only.all() and self.each is None:
            self.each = np.full(self.batch, self.used)
        if self.used >= STATE - 1:
            raise NotApplicable(f"a transform draws more than {STATE - 1} numbers for one image")
        if self.used == len(self.words):
            self.words = np.empty((_FIRST_WORDS if not self.used else STATE - 1, self.batch), np.uint32)
            self.generate(self.seeds, self.words)
        if self.each is None:
            self.used += 1
            row: NDArray[np.uint32] = self.words[self.used - 1]
            return row
        taken: NDArray[np.uint32] = self.words[self.each, np.arange(self.batch)]
        self.each += 1 if only is None else only
        self.used = int(self.each.max())
        return taken
