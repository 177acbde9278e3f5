"""One batch, fetched: samples under their keys, and what is said of those that cannot be had.

The generators that a dataset may use (Python's, NumPy's, PyTorch's) are set from a sample's key before it is asked
for, so that a sample is the same whoever loads it and whenever.
"""

import random
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, default_collate

from torchspeed.data.batched import BatchedDataset
from torchspeed.data.random import Keys
from torchspeed.errors import DataError, TorchspeedError

_NOT_THE_USERS = (
    *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
)
Request = tuple[NDArray[np.int64], Keys]  # the samples of a batch and their keys
Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Fetched:
    """``batch``, and the samples that were set aside: their positions in the dataset and what they raised."""

    batch: Any
    set_aside: dict[int, str]


class Failure:
    """An error of ours on its way out of a worker process, where an exception would lose its kind."""

    def __init__(self, error: TorchspeedError) -> None:
        self.kind = type(error)
        self.message = str(error)

    def error(self) -> TorchspeedError:
        error = self.kind.__new__(self.kind)  # some take other arguments than their message
        error.args = (self.message,)
        return error


class Fetcher(Dataset[Any]):
    """(indices, keys) -> batch; ``__getitems__`` is what ``DataLoader`` calls in a worker.

    tolerant: a sample that raises is left out of its batch and reported, instead of ending the run.
    """

    def __init__(self, dataset: Dataset[Any], collate: Collate | None, tolerant: bool) -> None:
        self.dataset = dataset
        self.collate = collate or default_collate
        self.tolerant = tolerant
        self.whole_batches = isinstance(dataset, BatchedDataset) and collate is None

    def fetch_here(self, request: Request) -> Fetched:
        """In the training process, whose generators must not move (model and dropout draw from them)."""
        if self.whole_batches:
            return self.fetch(request)
        with generators_kept():
            return self.fetch(request)

    def __getitems__(self, request: Request) -> Fetched | Failure:
        try:
            return self.fetch(request)
        except TorchspeedError as error:
            return Failure(error)

    def fetch(self, request: Request) -> Fetched:
        return self._whole(request) if self.whole_batches else self._by_sample(request)

    def _whole(self, request: Request) -> Fetched:
        indices, keys = request
        try:
            return Fetched(self._batch(indices, keys), {})
        except TorchspeedError as error:
            if not self.tolerant or len(indices) == 0:
                raise
            aside = self._culprits(indices, keys)
            if not aside:
                raise
            good = np.array([index not in aside for index in indices.tolist()])
            if not good.any():
                raise _none_left(indices) from error
            return Fetched(self._batch(indices[good], keys[good]), aside)

    def _batch(self, indices: NDArray[np.int64], keys: Keys) -> Any:
        try:
            return self.dataset.batch(indices, keys)  # type: ignore[attr-defined]
        except TorchspeedError:
            raise
        except Exception as error:
            what = f"the batch of samples {_few(indices)} raised {type(error).__name__}: {error}{raised_at(error)}"
            raise DataError(what) from error

    def _culprits(self, indices: NDArray[np.int64], keys: Keys) -> dict[int, str]:
        """The samples that raise by themselves too."""
        aside = {}
        for place, index in enumerate(indices.tolist()):
            try:
                self._batch(indices[place : place + 1], keys[place : place + 1])
            except TorchspeedError as error:
                aside[index] = str(error)
        return aside

    def _by_sample(self, request: Request) -> Fetched:
        indices, keys = request
        samples, aside = [], {}
        for index, key in zip(indices.tolist(), keys.tolist(), strict=True):
            seed_generators(key)
            try:
                samples.append(self._sample(index, key))
            except TorchspeedError as error:
                if not self.tolerant:
                    raise
                aside[index] = str(error)
        if not samples:
            raise _none_left(indices)
        try:
            return Fetched(self.collate(samples), aside)
        except Exception as error:
            raise DataError(
                f"the samples {_few(indices)} cannot be put into one batch: {type(error).__name__}: {error}; "
                "make their shapes equal or give collate="
            ) from error

    def _sample(self, index: int, key: int) -> Any:
        try:
            if isinstance(self.dataset, BatchedDataset):
                return self.dataset.sample(index, key)
            return self.dataset[index]
        except TorchspeedError:
            raise
        except Exception as error:
            raise DataError(f"sample {index} raised {type(error).__name__}: {error}{raised_at(error)}") from error


def seed_generators(key: int) -> None:
    """Set the generators that a dataset may draw from."""
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.default_generator.manual_seed(key)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Whatever is drawn inside from Python's, NumPy's and PyTorch's generators, they continue as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _none_left(indices: NDArray[np.int64]) -> DataError:
    return DataError(f"none of the samples {_few(indices)} can be read; a batch needs at least one")


def raised_at(error: BaseException) -> str:
    """ " (file:line)" of the user's code that raised: the deepest frame outside of installed packages."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [frame for frame in frames if not frame[0].startswith(_NOT_THE_USERS)] or frames
    return " ({}:{})".format(*own[-1]) if own else ""


def _few(indices: NDArray[np.int64]) -> str:
    shown = ", ".join(map(str, indices[:4].tolist()))
    return shown + (", …" if len(indices) > 4 else "")
