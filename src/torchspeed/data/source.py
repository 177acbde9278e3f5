"""What people hand over as data (a dataset, tensors, arrays) as one kind of thing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from torchspeed.data.batched import BatchedDataset, ConcatBatches, SubsetBatches, TensorBatches
from torchspeed.errors import DataError, JobError


def as_dataset(data: Any, what: str) -> Dataset[Any]:
    """A map-style dataset with a length; ``what`` ("train", "valid") names it in errors.

    Tensors, arrays and a plain ``TensorDataset`` become ``TensorBatches``, which gathers a batch at a time.
    Raises DataError for empty or unequal data, JobError for what is not data.
    """
    if type(data) is TensorDataset:
        data = data.tensors
    if isinstance(data, (Tensor, np.ndarray)):
        data = (data,)
    if isinstance(data, (tuple, list)) and data and all(isinstance(part, (Tensor, np.ndarray)) for part in data):
        data = TensorBatches(*_equal_lengths(data, what))
    data = _with_keys(data)
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise JobError(
            f"{what}: {type(data).__name__} has no __getitem__; order and resume need a map-style dataset "
            "(__len__ and __getitem__), a tuple of tensors or arrays, or a function that makes one"
        )
    if not hasattr(data, "__len__"):
        raise JobError(f"{what}: {type(data).__name__} has no __len__; a map-style dataset needs one")
    if isinstance(data, (tuple, list, dict, str)):
        found = (
            f"{type(data).__name__} of {type(data[0]).__name__}"
            if isinstance(data, list) and data
            else type(data).__name__
        )
        raise JobError(f"{what}: found a {found}; give a Dataset or a tuple of tensors or arrays")
    if len(data) == 0:
        raise DataError(f"{what}: the data are empty (length 0)")
    return data  # type: ignore[no-any-return]


def _with_keys(data: Any) -> Any:
    """Parts and sums of datasets of batches, as such: asked for single samples they would know no epoch."""
    if type(data) is Subset:
        inner = _with_keys(data.dataset)
        return SubsetBatches(inner, data.indices) if isinstance(inner, BatchedDataset) else data
    if type(data) is ConcatDataset:
        parts = [_with_keys(part) for part in data.datasets]
        return ConcatBatches(parts) if all(isinstance(part, BatchedDataset) for part in parts) else data
    return data


def _equal_lengths(parts: Sequence[Tensor | np.ndarray[Any, Any]], what: str) -> list[Tensor]:
    try:
        tensors = [part if isinstance(part, Tensor) else torch.from_numpy(np.ascontiguousarray(part)) for part in parts]
    except TypeError as error:
        kinds = ", ".join(str(part.dtype) for part in parts)
        raise DataError(f"{what}: arrays of {kinds}; only numbers can be trained on: encode the others") from error
    if any(tensor.ndim == 0 for tensor in tensors):
        raise DataError(f"{what}: a tensor without dimensions has no samples")
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise DataError(f"{what}: unequal lengths {lengths}; every tensor needs one row per sample")
    return tensors
