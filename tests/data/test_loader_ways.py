"""The ways in which a loader can be asked to load: threads, a sampler, a share of each batch, tolerance."""

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, WeightedRandomSampler, default_collate

from tiny import Noisy
from torchspeed.data.batched import BatchedDataset
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.random import Keys, uniform
from torchspeed.data.source import as_dataset
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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_pass_in_the_middle_of_one_disturbs_nothing(workers: int) -> None:
    loader = OrderedLoader(Noisy(52), 8, workers=workers)
    expected = [batch[2].tolist() for batch in OrderedLoader(Noisy(52), 8).epoch(0)]
    seen = []
    for batch in loader.epoch(0):
        seen.append(batch[2].tolist())
        next(iter(loader.epoch(1)))
    assert seen == expected


def test_a_loader_of_processes_is_no_part_of_a_circle() -> None:
    """Its workers end with it, and not at some later collection of garbage."""
    loader = OrderedLoader(Noisy(52), 8, workers=1)
    batches = loader.epoch(0)
    next(iter(batches))
    gone = weakref.ref(loader)
    gc.disable()
    try:
        del loader, batches
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("indices", [[0, 60], [-1, 3]])
def test_an_index_of_a_sampler_that_is_not_there_is_named(indices: list[int]) -> None:
    with pytest.raises(DataError, match=str(indices[0] if indices[0] < 0 else indices[1])):
        list(OrderedLoader(Threaded(50), 2, sampler=indices).epoch(0))


def test_a_dataset_of_batches_is_augmented_anew_by_sample_too() -> None:
    """Where single samples are collated, each still has the key of its epoch."""
    first, second = (
        [batch[1].tolist() for batch in OrderedLoader(Threaded(), 8, collate=default_collate).epoch(epoch)]
        for epoch in (0, 1)
    )
    whole = [batch[1].tolist() for batch in OrderedLoader(Threaded(), 8).epoch(0)]
    assert first == whole != second


@pytest.mark.parametrize("make", [lambda d: Subset(d, [5, 7, 9]), lambda d: ConcatDataset([d, Subset(d, [3])])])
def test_parts_and_sums_of_datasets_of_batches_are_augmented_in_every_epoch(make: Any) -> None:
    dataset = as_dataset(make(Threaded()), "train")
    batches = [OrderedLoader(dataset, 3).batch(epoch, 0) for epoch in (0, 1)]
    assert batches[0][0].tolist() == [make(Threaded())[i][0] for i in range(3)]
    assert batches[0][1].tolist() != batches[1][1].tolist()


def test_a_sum_of_datasets_keeps_the_order_of_its_batch() -> None:
    dataset = as_dataset(ConcatDataset([Threaded(4), Threaded(6)]), "train")
    order = [9, 0, 4, 3, 5]
    assert next(iter(OrderedLoader(dataset, 5, sampler=order).epoch(0)))[0].tolist() == [5, 0, 0, 3, 1]


def test_a_batch_without_a_good_sample_is_an_error() -> None:
    with pytest.raises(DataError, match="none of the samples"):
        list(OrderedLoader(Threaded(8, broken=tuple(range(8))), 4, tolerate=8).epoch(0))
