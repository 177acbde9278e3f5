"""A dataset that gives whole batches at once.

A map-style dataset is asked for one sample at a time, and the Python calls, the small tensors and their
collation cost more than the data: seen on 2 cores, a perceptron step of 491 µs becomes 912 µs behind a
``DataLoader``. Whoever can gather a batch in one go says so by this class; the engine then calls ``batch``.

Randomness (augmentation) comes from ``keys`` alone, see ``torchspeed.data.random``: one key per sample, a
function of (seed, epoch, index). So a batch is a pure function of its arguments.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from torchspeed.batch import map_tensors
from torchspeed.data.random import Keys, sample_keys


class BatchedDataset(Dataset[Any], ABC):
    """Implement ``__len__`` and ``batch``; ``__getitem__`` follows (sample ``i`` as in epoch 0 of seed 0).

    threads: whether ``batch`` can be called in several threads at once and they do not wait for each other, because
    it spends its time in code that releases the interpreter lock. Otherwise workers are processes.
    asynchronous: whether ``batch`` only tells a device what to do and returns before it is done. Nothing is gained by
    workers then, and none are used.
    """

    threads: bool = False
    asynchronous: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: NDArray[np.int64], keys: Keys) -> Any:
        """``indices``: int64 [B]; ``keys``: uint64 [B]; returns tensors whose first dimension is B."""

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a dataset of {len(self)}")
        return self.sample(index, int(sample_keys(0, 0, np.array([index]))[0]))

    def sample(self, index: int, key: int) -> Any:
        """One sample under its key."""
        batch = self.batch(np.array([index]), np.array([key], np.uint64))
        return map_tensors(batch, lambda tensor: tensor[0])


class Prepared(ABC):
    """A dataset with work to do once, before its first batch and before workers are started."""

    @abstractmethod
    def prepare(self) -> None: ...


class TensorBatches(BatchedDataset):
    """Tensors of equal length, gathered by index: what ``TensorDataset`` gives, a batch at a time."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> tuple[Tensor, ...]:
        where = torch.from_numpy(indices)
        return tuple(tensor.index_select(0, where) for tensor in self.tensors)


class SubsetBatches(BatchedDataset):
    """The samples ``indices`` of a dataset of batches: ``torch.utils.data.Subset``, with the keys passed on."""

    def __init__(self, dataset: BatchedDataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices, self.threads = dataset, np.asarray(indices, np.int64), dataset.threads

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> Any:
        return self.dataset.batch(self.indices[indices], keys)


class ConcatBatches(BatchedDataset):
    """Datasets of batches one after the other: ``torch.utils.data.ConcatDataset``, with the keys passed on."""

    def __init__(self, datasets: Sequence[BatchedDataset]) -> None:
        self.datasets, self.ends = list(datasets), np.cumsum([len(dataset) for dataset in datasets])
        self.threads = all(dataset.threads for dataset in datasets)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> Any:
        owner = np.searchsorted(self.ends, indices, side="right")
        starts = self.ends - np.array([len(dataset) for dataset in self.datasets])
        return batch_of_several(self.datasets, owner, indices - starts[owner], keys)


def batch_of_several(
    datasets: Sequence[BatchedDataset], owner: NDArray[np.int64], indices: NDArray[np.int64], keys: Keys
) -> Any:
    """One batch whose sample ``b`` is sample ``indices[b]`` of ``datasets[owner[b]]``; all arrays [B]."""
    places = [np.flatnonzero(owner == number) for number in range(len(datasets))]
    batches = [
        dataset.batch(indices[place], keys[place])
        for dataset, place in zip(datasets, places, strict=True)
        if len(place)
    ]
    return _joined(batches, torch.from_numpy(np.argsort(np.concatenate(places))))


def _joined(batches: Sequence[Any], order: Tensor) -> Any:
    """Batches of one structure as one, in ``order`` [B]."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches)).index_select(0, order)
    if isinstance(first, dict):
        return {key: _joined([batch[key] for batch in batches], order) for key in first}
    parts = [_joined([batch[place] for batch in batches], order) for place in range(len(first))]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
