"""Integer maps of rows and columns, composed: entry [b, i] is where place i of image b is taken from."""

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Map = NDArray[np.int32]


def crop_map(map_: Map, lengths: NDArray[np.int64], start: NDArray[np.int64], outside: int, length: int) -> Map:
    """The part of each map that begins at ``start`` [B]; beyond ``lengths`` [B] it is the code ``outside``."""
    out = np.empty((len(start), length), np.int32)
    _crop(map_, lengths, start, outside, out)
    return out


def flip_map(map_: Map, lengths: NDArray[np.int64], where: NDArray[np.bool_]) -> Map:
    """The maps, the other way round where ``where`` [B] is true."""
    out = np.empty((len(where), map_.shape[1]), np.int32)
    _flip(map_, lengths, where, out)
    return out


@kernel
def _crop(map_: Map, lengths: NDArray[np.int64], start: NDArray[np.int64], outside: int, out: Map) -> None:
    shared = len(map_) == 1
    for b in range(len(out)):
        source, first = map_[0 if shared else b], start[b]
        for i in range(out.shape[1]):
            place = first + i
            out[b, i] = source[place] if 0 <= place < lengths[b] else outside


@kernel
def _flip(map_: Map, lengths: NDArray[np.int64], where: NDArray[np.bool_], out: Map) -> None:
    shared = len(map_) == 1
    for b in range(len(out)):
        source, last = map_[0 if shared else b], lengths[b] - 1
        for i in range(out.shape[1]):
            out[b, i] = source[last - i if where[b] and i <= last else i]
