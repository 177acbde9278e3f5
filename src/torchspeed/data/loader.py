"""Batches whose content does not depend on who loads them: order and randomness come from (seed, epoch, index).

A ``DataLoader`` draws its order from the global generator and gives every worker a generator of its own, so another
number of workers is another training, and a resumed run must skip through the batches it has seen. Here the order of
an epoch is a counter-based permutation, sliced where the run stands, and the generators that a dataset may use
(Python's, NumPy's, PyTorch's) are set from each sample's key before it is asked for. With workers, PyTorch's own
``DataLoader`` carries the batches; without, they are fetched in place, which for small steps is half of the time.
"""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from torchspeed.data.batched import BatchedDataset
from torchspeed.data.random import Keys, permutation, sample_keys
from torchspeed.errors import DataError, TorchspeedError

Request = tuple[NDArray[np.int64], Keys]  # the samples of a batch and their keys
Collate = Callable[[list[Any]], Any]


class OrderedLoader:
    """``epoch(e, start)`` gives the batches of epoch ``e`` from batch ``start`` on; starting late costs nothing."""

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        collate: Collate | None = None,
        workers: int = 0,
    ) -> None:
        self.fetcher = _Fetcher(dataset, collate)
        self.samples: int = len(dataset)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.workers = workers
        self._requests = _Requests()
        self._pool: DataLoader[Any] | None = None
        if len(self) == 0:
            raise DataError(
                f"no batch: {self.samples} samples, batch_size {batch_size}, drop_last=True; "
                "use a smaller batch_size or drop_last=False"
            )

    def __len__(self) -> int:
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        if self.workers == 0:
            return map(self.fetcher.fetch_here, self.requests(epoch, start))
        if self._pool is None or self._pool.num_workers != self.workers:
            self._pool = self._make_pool()
        self._requests.pending = self.requests(epoch, start)
        return self._iterate(self._pool)

    def batch(self, epoch: int, number: int) -> Any:
        """One batch, loaded in this process."""
        return self.fetcher.fetch_here(next(self.requests(epoch, number)))

    def sample_ids(self, epoch: int, number: int) -> list[int]:
        """Positions in the dataset of the samples of a batch."""
        return list(map(int, next(self.requests(epoch, number))[0]))

    def requests(self, epoch: int, start: int = 0) -> Iterator[Request]:
        """What to fetch for each batch that is left of the epoch; keys are hashed once for all of it."""
        order = permutation(self.seed, epoch, self.samples) if self.shuffle else np.arange(self.samples)
        keys = sample_keys(self.seed, epoch, order)
        size = self.batch_size
        return ((order[i * size : (i + 1) * size], keys[i * size : (i + 1) * size]) for i in range(start, len(self)))

    def _make_pool(self) -> DataLoader[Any]:
        with warnings.catch_warnings():  # how many workers are too many is measured, not guessed
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            return DataLoader(
                self.fetcher,
                batch_sampler=self._requests,  # type: ignore[arg-type]
                num_workers=self.workers,
                collate_fn=_as_it_is,
                persistent_workers=True,
                multiprocessing_context="fork",  # a job's own classes and lambdas need not be pickled
                worker_init_fn=_single_thread,
            )

    @staticmethod
    def _iterate(pool: DataLoader[Any]) -> Iterator[Any]:
        # DataLoader draws a base seed for its workers from the global generator; ours must not move.
        with generators_kept(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            batches = iter(pool)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise DataError(f"a loader worker ended: {str(error).splitlines()[0]}") from error
            if isinstance(batch, _Failure):
                raise batch.error()
            yield batch


class _Requests:
    """The batch sampler that a ``DataLoader`` with persistent workers asks anew at each epoch."""

    pending: Iterator[Request] = iter(())

    def __iter__(self) -> Iterator[Request]:
        return self.pending


class _Fetcher(Dataset[Any]):
    """(indices, keys) -> batch; ``__getitems__`` is what ``DataLoader`` calls in a worker."""

    def __init__(self, dataset: Dataset[Any], collate: Collate | None) -> None:
        self.dataset = dataset
        self.collate = collate or default_collate
        self.whole_batches = isinstance(dataset, BatchedDataset) and collate is None

    def fetch_here(self, request: Request) -> Any:
        """In the training process, whose generators must not move (model and dropout draw from them)."""
        if self.whole_batches:
            return self.fetch(request)
        with generators_kept():
            return self.fetch(request)

    def __getitems__(self, request: Request) -> Any:
        try:
            return self.fetch(request)
        except TorchspeedError as error:  # DataLoader would rebuild it around a whole traceback
            return _Failure(error)

    def fetch(self, request: Request) -> Any:
        indices, keys = request
        if self.whole_batches:
            try:
                return self.dataset.batch(indices, keys)  # type: ignore[attr-defined]
            except TorchspeedError:
                raise
            except Exception as error:
                what = f"the batch of samples {_few(indices)} raised {type(error).__name__}: {error}{_where(error)}"
                raise DataError(what) from error
        samples = []
        for index, key in zip(indices.tolist(), keys.tolist(), strict=True):
            _seed_generators(key)
            try:
                samples.append(self.dataset[index])
            except TorchspeedError:
                raise
            except Exception as error:
                raise DataError(f"sample {index} raised {type(error).__name__}: {error}{_where(error)}") from error
        try:
            return self.collate(samples)
        except Exception as error:
            raise DataError(
                f"the samples {_few(indices)} cannot be put into one batch: {type(error).__name__}: {error}; "
                "make their shapes equal or give collate="
            ) from error


class _Failure:
    def __init__(self, error: TorchspeedError) -> None:
        self.kind = type(error)
        self.message = str(error)

    def error(self) -> TorchspeedError:
        error = self.kind.__new__(self.kind)  # some take other arguments than their message
        Exception.__init__(error, self.message)
        return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _single_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _seed_generators(key: int) -> None:
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


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"


def _few(indices: NDArray[np.int64]) -> str:
    shown = ", ".join(map(str, indices[:4].tolist()))
    return shown + (", …" if len(indices) > 4 else "")
