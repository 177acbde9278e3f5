"""Batches whose content does not depend on who loads them: order and randomness come from (seed, epoch, index).

A ``DataLoader`` draws its order from the global generator and gives every worker a generator of its own, so another
number of workers is another training, and a resumed run must skip through the batches it has seen. Here the order of
an epoch is a counter-based permutation, sliced where the run stands, and each sample has a key of its own.

Batches are fetched in place, which for small steps is half of the time; or ahead, in threads where the dataset's work
releases the interpreter lock (machine code: nothing is copied from process to process), or else in processes, by
PyTorch's own ``DataLoader``.
"""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from torchspeed.data.batched import Prepared
from torchspeed.data.fetch import Collate, Failure, Fetched, Fetcher, Request, generators_kept, seed_generators
from torchspeed.data.random import Keys, permutation, sample_keys
from torchspeed.errors import DataError

_OF_THE_SAMPLER = np.array([-(1 << 40)])  # no sample's position, and no batch's number


class OrderedLoader:
    """``epoch(e, start)`` gives the batches of epoch ``e`` from batch ``start`` on; starting late costs nothing.

    batch_size: samples over all ranks; rank r of ``world_size`` is given its share of each batch, so that the batches
        do not depend on the number of ranks.
    workers: threads or processes that load ahead; 0 loads in place. prefetch: batches that each of them is ahead.
    sampler: indices of an epoch in their order, in place of ``shuffle``.
    tolerate: samples that may be set aside because they cannot be read, over the life of the loader. Their batches are
        smaller by them; ``set_aside`` says which they are and what they raised.
    """

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
        prefetch: int = 2,
        rank: int = 0,
        world_size: int = 1,
        tolerate: int = 0,
        sampler: Iterable[int] | None = None,
    ) -> None:
        self.collate = collate
        self.sampler = sampler
        self.tolerate = tolerate
        self.set_aside: dict[int, str] = {}
        self.samples: int = len(dataset if sampler is None else sampler)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.workers = workers
        self.prefetch = prefetch
        self.rank, self.world_size = rank, world_size
        self.dataset = dataset
        if len(self) == 0:
            raise DataError(
                f"no batch: {self.samples} samples, batch_size {batch_size}, drop_last=True; "
                "use a smaller batch_size or drop_last=False"
            )
        smallest = batch_size if drop_last else self.samples - (len(self) - 1) * batch_size
        if smallest < world_size:
            raise DataError(
                f"a batch of {smallest} samples for {world_size} ranks; use drop_last=True or another batch_size"
            )

    @property
    def dataset(self) -> Dataset[Any]:
        """Another one of the same length may take its place between two epochs: the same data, loaded another way."""
        return self._fetcher.dataset

    @dataset.setter
    def dataset(self, dataset: Dataset[Any]) -> None:
        self._fetcher = Fetcher(dataset, self.collate, self.tolerate > 0)
        self._processes: _Processes | None = None

    def __len__(self) -> int:
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        self._prepare()
        requests = self.requests(epoch, start)
        if self.workers == 0 or getattr(self.dataset, "asynchronous", False):
            return map(self._opened, map(self._fetcher.fetch_here, requests))
        if self._fetcher.whole_batches and self.dataset.threads:  # type: ignore[attr-defined]
            return map(self._opened, self._in_threads(requests))
        return map(self._opened, self._in_processes(requests))

    def batch(self, epoch: int, number: int) -> Any:
        """One batch, loaded in this process."""
        self._prepare()
        return self._opened(self._fetcher.fetch_here(next(self.requests(epoch, number))))

    def fetch(self, indices: NDArray[np.int64]) -> Any:
        """The samples at these positions, as in epoch 0, in one batch, loaded in this process."""
        self._prepare()
        return self._opened(self._fetcher.fetch_here((indices, sample_keys(self.seed, 0, indices))))

    def sample_ids(self, epoch: int, number: int) -> list[int]:
        """Positions in the dataset of the samples of a batch."""
        return list(map(int, next(self.requests(epoch, number))[0]))

    def requests(self, epoch: int, start: int = 0) -> Iterator[Request]:
        """What to fetch for each batch that is left of the epoch; keys are hashed once for all of it."""
        if self.sampler is not None:
            order, keys = self._sampled(self.sampler, epoch)
        else:
            order = permutation(self.seed, epoch, self.samples) if self.shuffle else np.arange(self.samples)
            keys = sample_keys(self.seed, epoch, order)
        # Without this loader in it, or an iterator of processes that holds it would be part of a circle.
        return _requests(order, keys, self.batch_size, range(start, len(self)), self.rank, self.world_size)

    def _sampled(self, sampler: Iterable[int], epoch: int) -> Request:
        """The order of a sampler, whose draws follow from (seed, epoch); a sample that comes again has another key."""
        with generators_kept():
            seed_generators(int(sample_keys(self.seed, epoch, _OF_THE_SAMPLER)[0]))
            order = np.fromiter(sampler, np.int64)
        count = len(self.dataset)  # type: ignore[arg-type]
        if len(order) != self.samples:
            raise DataError(f"the sampler gave {len(order)} indices, and its length is {self.samples}")
        if order.min() < 0 or order.max() >= count:
            wrong = order[(order < 0) | (order >= count)][0]
            raise DataError(f"the sampler gave index {wrong} for a dataset of {count} samples")
        by_value = np.argsort(order, kind="stable")
        first = np.searchsorted(order[by_value], order[by_value])
        again = np.empty_like(order)
        again[by_value] = np.arange(len(order)) - first
        return order, sample_keys(self.seed, epoch, order + again * count)

    def _prepare(self) -> None:
        if isinstance(self.dataset, Prepared):
            self.dataset.prepare()

    def _opened(self, fetched: Fetched) -> Any:
        self.set_aside.update(fetched.set_aside)
        if len(self.set_aside) > self.tolerate:
            told = "; ".join(f"{index}: {why}" for index, why in sorted(self.set_aside.items())[:4])
            count = f"{len(self.set_aside)} samples cannot be read"
            raise DataError(f"{count}, more than the {self.tolerate} that may be set aside: {told}")
        return fetched.batch

    def _in_threads(self, requests: Iterator[Request]) -> Iterator[Fetched]:
        with ThreadPoolExecutor(self.workers, "torchspeed-loader") as pool:
            ahead: deque[Future[Fetched]] = deque()
            try:
                for request in requests:
                    ahead.append(pool.submit(self._fetcher.fetch, request))
                    if len(ahead) > self.workers * self.prefetch:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _in_processes(self, requests: Iterator[Request]) -> Iterator[Fetched]:
        pool, wanted = self._processes, (self.workers, self.prefetch)
        if pool is None or pool.busy or (pool.workers, pool.prefetch) != wanted:
            pool = self._processes = _Processes(self._fetcher, *wanted)
        try:
            yield from pool.fetch(requests)
        except DataError:  # of a worker that ended: the others are of no use without it
            self._processes = None
            raise


def _requests(
    order: NDArray[np.int64], keys: Keys, batch_size: int, numbers: range, rank: int, world_size: int
) -> Iterator[Request]:
    """The share of ``rank`` in each of the batches ``numbers``."""
    for number in numbers:
        first = number * batch_size
        count = min(batch_size, len(order) - first)
        share = slice(first + count * rank // world_size, first + count * (rank + 1) // world_size)
        yield order[share], keys[share]


class _Processes:
    """Worker processes that stay from epoch to epoch."""

    def __init__(self, fetcher: Fetcher, workers: int, prefetch: int) -> None:
        self.workers, self.prefetch = workers, prefetch
        self.busy = False  # a pass is under way; another one at the same time needs processes of its own
        self._requests = _Requests()
        with warnings.catch_warnings():  # how many workers are too many is measured, not guessed
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            self._loader: DataLoader[Any] = DataLoader(
                fetcher,
                batch_sampler=self._requests,  # type: ignore[arg-type]
                num_workers=workers,
                prefetch_factor=prefetch,
                collate_fn=_as_it_is,
                persistent_workers=True,
                multiprocessing_context="fork",  # a job's own classes and lambdas need not be pickled
                worker_init_fn=_single_thread,
            )

    def fetch(self, requests: Iterator[Request]) -> Iterator[Fetched]:
        self.busy = True
        try:
            yield from self._fetched(requests)
        finally:
            self.busy = False

    def _fetched(self, requests: Iterator[Request]) -> Iterator[Fetched]:
        self._requests.pending = requests
        # DataLoader draws a base seed for its workers from the global generator; ours must not move.
        with generators_kept(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            batches = iter(self._loader)
        while True:
            try:
                fetched = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise DataError(f"a loader worker ended: {str(error).splitlines()[0]}") from error
            if isinstance(fetched, Failure):
                raise fetched.error()
            yield fetched


class _Requests:
    """The batch sampler that a ``DataLoader`` with persistent workers asks anew at each epoch."""

    pending: Iterator[Request] = iter(())

    def __iter__(self) -> Iterator[Request]:
        return self.pending


def _as_it_is(fetched: Any) -> Any:
    return fetched


def _single_thread(worker: int) -> None:
    torch.set_num_threads(1)
