"""Batches depend on (seed, epoch, index) and on nothing else: not on workers, not on where a run began."""

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from tiny import Noisy
from torchspeed.data.batched import TensorBatches
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.random import integers, odd_epoch, permutation, sample_keys, uniform
from torchspeed.data.source import as_dataset
from torchspeed.errors import DataError, JobError, MissingPackage


def epoch(dataset: Dataset[Any], number: int = 0, start: int = 0, **options: Any) -> list[Any]:
    return list(OrderedLoader(dataset, 8, shuffle=True, **options).epoch(number, start))


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("make", [Noisy, lambda: TensorBatches(torch.arange(52.0), torch.arange(52))])
def test_the_number_of_workers_changes_nothing(make: Callable[[], Dataset[Any]], workers: int) -> None:
    alone = OrderedLoader(make(), 8, seed=3, shuffle=True)
    helped = OrderedLoader(make(), 8, seed=3, shuffle=True, workers=workers)
    for number in (0, 1):
        assert same(list(alone.epoch(number)), list(helped.epoch(number)))


def test_epochs_and_seeds_differ() -> None:
    assert not same(epoch(Noisy(), 0), epoch(Noisy(), 1))
    assert not same(epoch(Noisy(), seed=0), epoch(Noisy(), seed=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_late_gives_the_rest(workers: int) -> None:
    assert same(epoch(Noisy(), 1, 3, workers=workers), epoch(Noisy(), 1)[3:])


def test_every_sample_exactly_once_with_an_uneven_last_batch() -> None:
    batches = epoch(Noisy(52))
    assert [len(batch[2]) for batch in batches] == [8] * 6 + [4]
    assert sorted(torch.cat([batch[2] for batch in batches]).tolist()) == list(range(52))


def test_drop_last_drops_the_uneven_batch() -> None:
    loader = OrderedLoader(Noisy(52), 8, drop_last=True)
    assert len(loader) == len(list(loader.epoch(0))) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_the_generators_of_the_training_process_do_not_move(workers: int) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    epoch(Noisy(), workers=workers)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), before[2])


class Raising(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        if index == 17:
            raise ValueError("broken file")
        return super().__getitem__(index)


class Ragged(Noisy):
    def __getitem__(self, index: int) -> Any:
        return torch.zeros(1 + index % 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_raises_is_named(workers: int) -> None:
    with pytest.raises(DataError, match=r"^sample 17 raised ValueError: broken file \(.*test_loader.py:\d+\)$"):
        epoch(Raising(), workers=workers)


class NeedsPackage(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        raise MissingPackage("pyarrow", extra="cifar10", why="reads parquet")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_ours_comes_out_of_a_worker_as_it_is(workers: int) -> None:
    with pytest.raises(MissingPackage, match=r"^pyarrow is not installed \(reads parquet\); run: pip install"):
        epoch(NeedsPackage(), workers=workers)


class Dying(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(DataError, match="a loader worker ended: DataLoader worker"):
        epoch(Dying(), workers=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_ragged_samples_are_named(workers: int) -> None:
    with pytest.raises(DataError, match=r"the samples .* cannot be put into one batch: .* give collate="):
        epoch(Ragged(), workers=workers)


def test_a_collate_of_ones_own_is_used() -> None:
    batches = epoch(Ragged(), collate=lambda samples: torch.nn.utils.rnn.pad_sequence(samples, batch_first=True))
    assert batches[0].shape == (8, 2)


def test_tensors_arrays_and_tensor_datasets_become_batches() -> None:
    tensors = torch.zeros(4, 2), torch.zeros(4)
    for data in (tensors, TensorDataset(*tensors), (np.zeros((4, 2)), np.zeros(4)), torch.zeros(4)):
        assert isinstance(as_dataset(data, "train"), TensorBatches)


@pytest.mark.parametrize(
    ("data", "error", "finding"),
    [
        ((torch.zeros(4), torch.zeros(5)), DataError, r"train: unequal lengths \[4, 5\]"),
        ((torch.zeros(0, 3), torch.zeros(0)), DataError, "train: the data are empty"),
        ([], JobError, "train: found a list"),
        ([1, 2], JobError, "train: found a list of int"),
        ({"a": 1}, JobError, "train: found a dict"),
        (iter([1]), JobError, "has no __getitem__"),
        (torch.zeros(()), DataError, "without dimensions"),
        ((np.array(["a", "b"]),), DataError, "arrays of <U1; only numbers can be trained on"),
    ],
)
def test_what_is_not_data_is_refused(data: Any, error: type[Exception], finding: str) -> None:
    with pytest.raises(error, match=finding):
        as_dataset(data, "train")


def test_no_batch_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no batch: 3 samples, batch_size 8, drop_last=True"):
        OrderedLoader(Noisy(3), 8, drop_last=True)


def test_draws_are_uniform_and_independent_between_streams_and_samples() -> None:
    keys = sample_keys(0, 0, np.arange(100_000))
    one, other = uniform(keys, 0), uniform(keys, 1)
    bins = np.bincount((one * 100).astype(int), minlength=100)
    assert abs(((bins - 1000) ** 2 / 1000).sum() - 99) < 5 * np.sqrt(2 * 99)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.02
    assert set(integers(keys, 2, -2, 3).tolist()) == {-2, -1, 0, 1, 2}


def test_keys_differ_and_tell_the_parity_of_the_epoch() -> None:
    keys = np.concatenate([sample_keys(seed, number, np.arange(1000)) for seed in range(3) for number in range(4)])
    assert len(np.unique(keys)) == len(keys)
    assert odd_epoch(sample_keys(5, 3, np.arange(9))).all()
    assert not odd_epoch(sample_keys(5, 2, np.arange(9))).any()


def test_an_order_is_a_permutation_of_its_own() -> None:
    orders = [permutation(0, number, 100).tolist() for number in range(5)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
