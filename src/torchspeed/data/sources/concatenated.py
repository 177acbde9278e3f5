"""``concatenated``: the datasets inside a ``ConcatDataset``, also where a subset or a random split is taken of it.

They may differ in transform, size and kind of source, so each is read and compiled by itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset


@dataclass(frozen=True)
class Concatenated:
    """Sample ``i`` of the whole is sample ``place[i]`` of ``datasets[part[i]]``; both int64 [N]."""

    datasets: list[Dataset[Any]]
    part: NDArray[np.int64]
    place: NDArray[np.int64]


def concatenated(dataset: Any) -> Concatenated:
    """The datasets that ``dataset`` is made of; one, itself, if it is no ``ConcatDataset`` or ``Subset`` of one."""
    if isinstance(dataset, ConcatDataset):
        return _joined([concatenated(child) for child in dataset.datasets])
    if type(dataset) is Subset:
        whole = concatenated(dataset.dataset)
        if whole.datasets != [dataset.dataset]:
            return _chosen(whole, np.asarray(dataset.indices, np.int64))
    return Concatenated([dataset], np.zeros(len(dataset), np.int64), np.arange(len(dataset)))


def _joined(children: list[Concatenated]) -> Concatenated:
    before = np.cumsum([0, *(len(child.datasets) for child in children)])
    return Concatenated(
        [dataset for child in children for dataset in child.datasets],
        np.concatenate([child.part + start for child, start in zip(children, before, strict=False)]),
        np.concatenate([child.place for child in children]),
    )


def _chosen(whole: Concatenated, indices: NDArray[np.int64]) -> Concatenated:
    """Subsets of those datasets of which something is chosen."""
    part, place = whole.part[indices], whole.place[indices]
    left = np.unique(part)
    new_place = np.empty_like(place)
    subsets: list[Dataset[Any]] = []
    for number in left.tolist():
        here = part == number
        subsets.append(Subset(whole.datasets[number], place[here].tolist()))
        new_place[here] = np.arange(len(subsets[-1]))  # type: ignore[arg-type]
    return Concatenated(subsets, np.searchsorted(left, part), new_place)
