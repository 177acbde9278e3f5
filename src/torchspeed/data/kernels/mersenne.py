"""The first numbers of many Mersenne Twisters, each with a seed of its own.

PyTorch's CPU generator is the MT19937 of Matsumoto & Nishimura, "Mersenne Twister: a 623-dimensionally equidistributed
uniform pseudo-random number generator", ACM TOMACS 8 (1998), and so is Python's ``random``; they differ in how a seed
becomes the state. A generator that gives ten numbers needs only a little of its state of 624 words: output k depends
on words k, k + 1 and k + 397. The recurrence that fills the state is a chain of dependent multiplications, 1.5 µs
long; here sixteen seeds go along it side by side, in the lanes of one register, which is ten times faster.
"""

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

STATE = 624
_SHIFT = 397
_LANES = 16


@kernel
def torch_words(seeds: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
    """``out`` [K, B], K < 624: the first K 32-bit outputs after ``torch.manual_seed(seed)``. ``seeds``: [B]."""
    count, batch = out.shape
    length = min(STATE, _SHIFT + count + 1)
    state = np.empty((STATE, _LANES), np.uint32)
    for first in range(0, batch, _LANES):
        lanes = min(_LANES, batch - first)
        for lane in range(_LANES):
            state[0, lane] = seeds[first + min(lane, lanes - 1)]
        _fill(state, length)
        _outputs(state, out, first, lanes)


@kernel
def python_words(seeds: NDArray[np.uint64], out: NDArray[np.uint32]) -> None:
    """``out`` [K, B], K < 624: the first K 32-bit outputs after ``random.seed(int(seed))``. ``seeds``: [B]."""
    batch = out.shape[1]
    start = np.empty((STATE, _LANES), np.uint32)
    start[0, :] = np.uint32(19650218)
    _fill(start, STATE)
    state = np.empty((STATE, _LANES), np.uint32)
    digits = np.zeros((2, _LANES), np.uint32)
    for first in range(0, batch, _LANES):
        lanes = min(_LANES, batch - first)
        state[:] = start
        for lane in range(lanes):
            digits[0, lane] = np.uint32(seeds[first + lane] & np.uint64(0xFFFFFFFF))
            digits[1, lane] = np.uint32(seeds[first + lane] >> np.uint64(32))
        _mix_in(state, digits)
        _outputs(state, out, first, lanes)


@kernel
def _fill(state: NDArray[np.uint32], length: int) -> None:
    for i in range(1, length):
        for lane in range(_LANES):
            before = state[i - 1, lane]
            state[i, lane] = np.uint32(1812433253) * (before ^ (before >> np.uint32(30))) + np.uint32(i)


@kernel
def _mix_in(state: NDArray[np.uint32], digits: NDArray[np.uint32]) -> None:
    """Python's seeding: the 32-bit digits of the seed (the low one first) go into every word of a fixed state."""
    i = 1
    for k in range(STATE):
        for lane in range(_LANES):
            j = np.uint32(k & 1) if digits[1, lane] else np.uint32(0)  # a seed below 2**32 is one digit
            before = state[i - 1, lane]
            mixed = (before ^ (before >> np.uint32(30))) * np.uint32(1664525)
            state[i, lane] = (state[i, lane] ^ mixed) + digits[j, lane] + j
        i = _next(state, i)
    for _ in range(STATE - 1):
        for lane in range(_LANES):
            before = state[i - 1, lane]
            mixed = (before ^ (before >> np.uint32(30))) * np.uint32(1566083941)
            state[i, lane] = (state[i, lane] ^ mixed) - np.uint32(i)
        i = _next(state, i)
    state[0, :] = np.uint32(0x80000000)


@kernel
def _next(state: NDArray[np.uint32], i: int) -> int:
    if i + 1 < STATE:
        return i + 1
    state[0, :] = state[STATE - 1, :]
    return 1


@kernel
def _outputs(state: NDArray[np.uint32], out: NDArray[np.uint32], first: int, lanes: int) -> None:
    for k in range(out.shape[0]):
        for lane in range(lanes):
            joined = (state[k, lane] & np.uint32(0x80000000)) | (state[k + 1, lane] & np.uint32(0x7FFFFFFF))
            twist = np.uint32(0x9908B0DF) if joined & np.uint32(1) else np.uint32(0)
            # Word k + 397, or the twisted one that has taken its place when the index has gone once around.
            ahead = state[k + _SHIFT, lane] if k + _SHIFT < STATE else state[k + _SHIFT - STATE, lane]
            word = ahead ^ (joined >> np.uint32(1)) ^ twist
            state[k, lane] = word
            word ^= word >> np.uint32(11)
            word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
            word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
            out[k, first + lane] = word ^ (word >> np.uint32(18))
