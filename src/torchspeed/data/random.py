"""Counter-based randomness: every draw is a pure function of (seed, epoch, sample index, stream).

A generator with hidden state makes the k-th sample depend on who drew before it: on the number of loader
workers, on the number of ranks, on where a run was resumed. A counter-based generator has no state: it hashes
its arguments. So order and augmentation are the same whoever computes them and whenever.

The hash is the SplitMix64 finaliser (Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), applied once per argument; the permutation uses NumPy's Philox, a counter-based generator too
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

import functools

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LAST_BIT = np.uint64(1)
_MASK = (1 << 64) - 1


def sample_keys(seed: int, epoch: int, indices: NDArray[np.int64]) -> Keys:
    """One 64-bit key per sample; its last bit is that of the epoch.

    ``indices``: int64 [B], positions in the dataset; returns uint64 [B].
    """
    base = _mix(_mix(np.array([seed & _MASK], np.uint64)) + np.uint64(epoch))
    keys = _mix(base + _mix(np.asarray(indices).astype(np.uint64)))
    return (keys & ~_LAST_BIT) | np.uint64(epoch & 1)


def odd_epoch(keys: Keys) -> NDArray[np.bool_]:
    """True where a key is of an odd epoch: for what alternates from epoch to epoch."""
    return (keys & _LAST_BIT).astype(np.bool_)


def uniform(keys: Keys, stream: int) -> NDArray[np.float64]:
    """Uniform draws in [0, 1), one per key. Different ``stream`` numbers give independent draws."""
    bits = _mix(keys + _offset(stream))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(keys: Keys, stream: int, low: int, high: int) -> NDArray[np.int64]:
    """Integers in [low, high), one per key (bias below ``(high - low) / 2**53``)."""
    return (low + np.floor(uniform(keys, stream) * (high - low))).astype(np.int64)


def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of one epoch: a permutation of ``range(n)``."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed & _MASK, epoch], np.uint64)))
    return generator.permutation(n)


@functools.cache
def _offset(stream: int) -> NDArray[np.uint64]:
    return _mix(np.array([stream], np.uint64))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + _GOLDEN  # arrays of integers wrap around without a word
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
