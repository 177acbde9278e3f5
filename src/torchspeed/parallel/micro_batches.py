"""A batch in pieces whose gradients add up to its own.

The loss of a batch is a mean over its samples, so the loss of a piece counts by its share of the samples; an uneven
last piece has a smaller one.
"""

from collections.abc import Iterator
from typing import Any

from torchspeed.batch import batch_length, map_tensors


def split(batch: Any, pieces: int) -> Iterator[tuple[Any, float]]:
    """Cut ``batch`` along its first dimension into at most ``pieces``; yields (piece, share of the samples)."""
    samples = batch_length(batch)
    if pieces == 1 or samples < 2:
        yield batch, 1.0
        return
    size = -(-samples // pieces)
    for start in range(0, samples, size):
        stop = min(start + size, samples)
        yield _rows(batch, start, stop), (stop - start) / samples


def _rows(batch: Any, start: int, stop: int) -> Any:
    return map_tensors(batch, lambda tensor: tensor[start:stop] if tensor.ndim else tensor)
