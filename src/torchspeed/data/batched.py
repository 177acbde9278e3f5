"""A dataset that gives whole batches at once.

A map-style dataset is asked for one sample at a time, and the Python calls, the small tensors and their
collation cost more than the data: seen on 2 cores, a perceptron step of 491 µs becomes 912 µs behind a
``DataLoader``. Whoever can gather a batch in one go says so by this class; the engine then calls ``batch``.

Randomness (augmentation) comes from ``keys`` alone, see ``torchspeed.data.random``: one key per sample, a
function of (seed, epoch, index). So a batch is a pure function of its arguments.
"""

from abc import ABC, abstractmethod
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
