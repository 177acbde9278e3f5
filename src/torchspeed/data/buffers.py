"""Arrays that are used again once nobody else holds them.

A batch of 224 × 224 images in float32 is 154 MB at batch 256. Fresh memory of that size comes from the kernel page by
page, each page zeroed at its first touch, which costs more than writing the batch. So finished batches lie in arrays
that are kept, and an array is given out again when its reference count says that every tensor over it is gone. A
consumer that keeps its batches (``list(loader)``) keeps its memory too; nothing is ever overwritten under it.

For a CUDA device the arrays are page-locked, so that copies to it need not wait.
"""

import sys
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

_SPARE = 8  # free arrays of other shapes that are kept: uneven last batches, two sizes in turn


class Buffers:
    """``take`` gives an array that nobody else holds; its content is rubbish. Safe to call from several threads."""

    def __init__(self, pinned: bool = False) -> None:
        self.pinned = pinned
        self._arrays: list[NDArray[Any]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        wanted = np.dtype(dtype)
        with self._lock:
            for place in range(len(self._arrays)):
                free = sys.getrefcount(self._arrays[place]) == _FREE
                if free and self._arrays[place].shape == shape and self._arrays[place].dtype == wanted:
                    # To the end: what was given out last is still held, and need not be looked at first.
                    self._arrays.append(self._arrays.pop(place))
                    return self._arrays[-1]
            self._forget_spare()
            self._arrays.append(self._new(shape, wanted))
            return self._arrays[-1]

    def __reduce__(self) -> Any:
        return Buffers, (self.pinned,)

    def _forget_spare(self) -> None:
        """Free arrays are of shapes that are not wanted any more, all but a few."""
        free = [place for place in range(len(self._arrays)) if sys.getrefcount(self._arrays[place]) == _FREE]
        for place in reversed(free[:-_SPARE]):
            del self._arrays[place]

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if not self.pinned:
            return np.empty(shape, dtype)
        count = int(np.prod(shape)) * dtype.itemsize
        return torch.empty(count, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)


def _references_of_a_free_one() -> int:
    arrays = [np.empty(0)]
    return sys.getrefcount(arrays[0])


_FREE = _references_of_a_free_one()
