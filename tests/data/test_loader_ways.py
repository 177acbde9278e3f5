"""The ways in which a loader can be asked to load: threads, a sampler, a share of each batch, tolerance."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from tiny import Noisy
from torchspeed.data.batched import BatchedDataset
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.random import Keys, uniform
from torchspeed.errors import DataError


class Threaded(BatchedDataset):
    """Gives indices and what each drew, and remembers which threads asked."""

    threads = True

    def __init__(self, count: int = 52, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken
        self.asked_by: set[str] = set()

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> tuple[Tensor, Tensor]:
        self.asked_by.add(threading.current_thread().name)
        for index in indices.tolist():
            if index in self.broken:
                raise ValueError(f"torn at {index}")
        return torch.from_numpy(indices.copy()), torch.from_numpy(uniform(keys, 0))


def ids(batches: Any) -> list[list[int]]:
    return [batch[0].tolist() for batch in batches]


def test_threads_give_the_same_batches_in_the_same_order() -> None:
    here = list(OrderedLoader(Threaded(), 8, shuffle=True).epoch(1))
    dataset = Threaded()
    ahead = list(OrderedLoader(dataset, 8, shuffle=True, workers=3).epoch(1))
    assert ids(here) == ids(ahead)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(here, ahead, strict=True))
    assert all(name.startswith("torchspeed-loader") for name in dataset.asked_by)


def test_what_a_thread_raises_reaches_the_consumer() -> None:
    loader = OrderedLoader(Threaded(broken=(20,)), 8, workers=2)
    with pytest.raises(DataError, match=r"16, 17.*torn at 20"):
        list(loader.epoch(0))


def test_breaking_off_leaves_no_thread_behind() -> None:
    loader = OrderedLoader(Threaded(500), 2, workers=2)
    batches = loader.epoch(0)
    next(iter(batches))
    del batches
    assert not [t for t in threading.enumerate() if t.name.startswith("torchspeed-loader")]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_batch(world_size: int) -> None:
    whole = ids(OrderedLoader(Threaded(50), 8, shuffle=True, drop_last=True).epoch(2))
    shares = [
        ids(OrderedLoader(Threaded(50), 8, shuffle=True, drop_last=True, rank=r, world_size=world_size).epoch(2))
        for r in range(world_size)
    ]
    assert [[index for share in shares for index in share[n]] for n in range(len(whole))] == whole


def test_a_batch_with_fewer_samples_than_ranks_is_refused() -> None:
    with pytest.raises(DataError, match="2 samples for 4 ranks"):
        OrderedLoader(Threaded(50), 8, world_size=4)


def test_the_order_of_a_sampler_follows_from_seed_and_epoch() -> None:
    def loader() -> OrderedLoader:
        sampler = WeightedRandomSampler([1.0] * 49 + [200.0], 50)
        return OrderedLoader(Threaded(50), 8, sampler=sampler, seed=3)

    first = list(loader().epoch(1))
    torch.manual_seed(99)
    again = list(loader().epoch(1, 2))
    assert ids(first)[2:] == ids(again)
    assert ids(first) != ids(loader().epoch(2))


def test_a_sample_that_a_sampler_gives_twice_is_augmented_anew() -> None:
    batches = list(OrderedLoader(Threaded(50), 8, sampler=[7] * 16).epoch(0))
    assert len({value for batch in batches for value in batch[1].tolist()}) == 16


class Torn(Noisy):
    def __getitem__(self, index: int) -> Any:
        if index in (9, 17):
            raise ValueError("broken file")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dataset", [Threaded(52, broken=(9, 17)), Torn(52)])
def test_samples_that_cannot_be_read_are_set_aside_the_same_way_every_time(dataset: Any, workers: int) -> None:
    loader = OrderedLoader(dataset, 8, workers=workers, tolerate=2)
    for _ in range(2):
        assert [len(batch[1]) for batch in loader.epoch(0)] == [8, 7, 7, 8, 8, 8, 4]
    assert sorted(loader.set_aside) == [9, 17]


def test_more_bad_samples_than_are_tolerated_end_the_run() -> None:
    with pytest.raises(DataError, match=r"2 samples.*more than the 1.*9: .*17: "):
        list(OrderedLoader(Torn(52), 8, tolerate=1).epoch(0))


def test_a_batch_without_a_good_sample_is_an_error() -> None:
    with pytest.raises(DataError, match="none of the samples"):
        list(OrderedLoader(Threaded(8, broken=tuple(range(8))), 4, tolerate=8).epoch(0))
