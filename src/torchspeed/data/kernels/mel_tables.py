"""What the kernel of log-mel spectrograms is told beforehand: angles, the order of frequencies, weights of bands.

A triangle on the mel scale ends where the next but one begins, so a frequency is in two neighbouring bands at most: two
weights each take the place of a matrix that is nearly empty.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchspeed.errors import DataError

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Tables(NamedTuple):
    """What ``log_mel`` needs to know of a window of n samples, h = n / 2.

    cos, sin: [n], of -2 π k / n. factors: whose product is h. places: [h + 1], the row of each frequency, of which the
    last is the first again. band: [h + 1], the lower of the two neighbouring bands that a frequency is in, and lower,
    upper: [h + 1], its weights in them. mels: bands. hop: samples from frame to frame. floor: the least power.
    """

    window: Floats
    cos: Floats
    sin: Floats
    factors: Integers
    places: Integers
    band: Integers
    lower: Floats
    upper: Floats
    mels: int
    hop: int
    floor: np.float32


def tables(window: Floats, bank: Floats, hop: int, floor: float) -> Tables:
    """For a ``window`` [n] and a ``bank`` [mels, n / 2 + 1] in which a frequency is in two neighbouring bands at most.

    Raises ``DataError`` where it is in more, where n is odd, where n / 2 has other prime factors than 2, 3 and 5, and
    where ``floor`` is below the least normal number, 1.2e-38.
    """
    n, mels = len(window), len(bank)
    half = n // 2
    factors = _factors(half)
    if n % 2 or math.prod(factors) != half:
        raise DataError(
            f"n_fft={n}: windows of 2 · 2^a · 3^b · 5^c samples are transformed here; the next is {_next_length(n)}"
        )
    if floor < np.finfo(np.float32).tiny:
        raise DataError(f"floor={floor}: powers are float32 here; give 1.2e-38 or more")
    order = np.zeros(1, np.int64)  # of the frequencies, as the transform leaves them
    for factor in reversed(factors):
        order = np.concatenate([digit + factor * order for digit in range(factor)])
    angles = -2 * np.pi * np.arange(n) / n
    padded = np.concatenate([bank, np.zeros((1, half + 1), np.float32)])
    frequencies, band = np.arange(half + 1), np.argmax(bank > 0, axis=0)
    lower, upper = padded[band, frequencies], padded[band + 1, frequencies]
    if not np.array_equal(lower + upper, bank.sum(0)):
        raise DataError("a frequency is in other bands than two neighbouring ones; LogMel in the model can do that")
    return Tables(
        window=np.ascontiguousarray(window, np.float32),
        cos=np.cos(angles).astype(np.float32),
        sin=np.sin(angles).astype(np.float32),
        factors=np.array(factors, np.int64),
        places=np.append(np.argsort(order), 0),
        band=band,
        lower=lower / 4,  # where means of two are meant, their sums are computed
        upper=upper / 4,
        mels=mels,
        hop=hop,
        floor=np.float32(floor),
    )


def _factors(length: int) -> list[int]:
    """Of ``length``, as far as it is a product of 2, 3 and 5; fours are fewer stages than twos."""
    factors = []
    for factor in (4, 5, 3, 2):
        while length % factor == 0:
            factors.append(factor)
            length //= factor
    return factors


def _next_length(n: int) -> int:
    half = n // 2 + 1
    while math.prod(_factors(half)) != half:
        half += 1
    return 2 * half
