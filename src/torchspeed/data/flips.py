"""Which images of a batch are mirrored.

A coin for each image and epoch shows some images three times the same way round. Alternating flips instead: the
first epoch throws the coin for each image, and every later epoch shows it the other way, so that any two epochs
in a row see both sides of everything. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498,
section 3.6, reaches the same accuracy in fewer epochs with it.

It needs the epoch, which a batch is not given. But ``sample_keys`` is a chain of bijections, so for a known index
the chain can be walked back: what is left is the epoch plus a constant of the seed, and the last bit of that
alternates.
"""

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.random import _GOLDEN, Keys, _mix, uniform

_COIN_STREAM = 2
_MULTIPLIERS = (0x94D049BB133111EB, 0xBF58476D1CE4E5B9)  # those of the SplitMix64 finaliser, last one first
_INVERSES = tuple(np.uint64(pow(multiplier, -1, 1 << 64)) for multiplier in _MULTIPLIERS)


def random_flips(keys: Keys) -> NDArray[np.bool_]:
    """A fair coin for each sample and epoch. ``keys``: uint64 [B]; returns bool [B]."""
    return uniform(keys, _COIN_STREAM) < 0.5


def alternating_flips(keys: Keys, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """A fair coin for each sample, turned over at every epoch. ``keys`` must be ``sample_keys(…, indices)``.

    Images alternate independently of each other; which of the two patterns comes first depends on the seed.
    """
    own = _mix(np.asarray(indices).astype(np.uint64))
    epoch_and_seed = _unmix(_unmix(keys) - own)
    return random_flips(own) ^ (epoch_and_seed & np.uint64(1)).astype(np.bool_)


def _unmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The inverse of the finaliser: x with ``_mix(x)`` given. Overflow is arithmetic modulo 2**64, as there."""
    for shift, inverse in zip((31, 27), _INVERSES, strict=True):
        x = _unshift(x, shift) * inverse
    return _unshift(x, 30) - _GOLDEN


def _unshift(x: NDArray[np.uint64], shift: int) -> NDArray[np.uint64]:
    """The inverse of ``x ^ (x >> shift)``: each round restores ``shift`` more bits, from the top."""
    restored = x
    for _ in range(64 // shift):
        restored = x ^ (restored >> np.uint64(shift))
    return restored
