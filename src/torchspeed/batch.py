"""A batch is whatever a dataset gives: a tensor, or tensors in tuples, lists and dictionaries, nested as they like."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_tensors(batch: Any, function: Callable[[Tensor], Any]) -> Any:
    """``batch`` with ``function`` of each of its tensors in their place; what is not a tensor stays."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {key: map_tensors(part, function) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(part, function) for part in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(map_tensors(part, function) for part in batch)
    return batch


def batch_length(batch: Any) -> int:
    """Samples in a batch: the first dimension of the first tensor that has one; 0 without any."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else ()
    return next((length for length in map(batch_length, parts) if length), 0)
