"""Datasets put one after the other are found again, also after a random split."""

from typing import Any

import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset, random_split

from torchspeed.data.sources.concatenated import concatenated


def numbers(first: int, count: int) -> TensorDataset:
    return TensorDataset(torch.arange(first, first + count))


def assert_parts_are_the_whole(dataset: Any) -> None:
    found = concatenated(dataset)
    assert len(found.part) == len(found.place) == len(dataset)
    again = [found.datasets[part][place] for part, place in zip(found.part, found.place, strict=True)]
    assert again == [dataset[i] for i in range(len(dataset))]


def test_one_dataset_is_one_part() -> None:
    dataset = numbers(0, 5)
    assert concatenated(dataset).datasets == [dataset]
    subset = Subset(dataset, [3, 1])
    assert concatenated(subset).datasets == [subset]
    assert_parts_are_the_whole(subset)


def test_parts_nest() -> None:
    a, b, c = numbers(0, 5), numbers(100, 3), numbers(200, 4)
    assert concatenated(ConcatDataset([ConcatDataset([a, b]), c])).datasets == [a, b, c]
    assert_parts_are_the_whole(ConcatDataset([ConcatDataset([a, b]), c]))


def test_a_random_split_is_subsets_of_the_parts() -> None:
    whole = ConcatDataset([numbers(0, 50), ConcatDataset([numbers(100, 3), numbers(200, 40)])])
    train, valid = random_split(whole, [80, 13], torch.Generator().manual_seed(0))
    assert_parts_are_the_whole(train)
    assert_parts_are_the_whole(valid)
    assert_parts_are_the_whole(Subset(train, [4, 70, 4]))


def test_a_part_of_which_nothing_is_chosen_is_left_out() -> None:
    found = concatenated(Subset(ConcatDataset([numbers(0, 5), numbers(100, 3)]), [6, 5]))
    assert len(found.datasets) == 1
    assert_parts_are_the_whole(Subset(ConcatDataset([numbers(0, 5), numbers(100, 3)]), [6, 5]))
