"""What a sample holds besides its image, known without loading the image.

Most datasets keep their labels in a list or array beside the images. The column is found by what it holds: for every
sample that was looked at it must give the very leaf, type included, as it is, as a number or tensor, or after the
``target_transform``. A few samples may agree by chance where most labels are equal. So more are looked at, one for
each of several values that the column has; and where hardly any values were seen, the column must be a label by name
or belong to a table of the samples.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchspeed.data.sources.columns import Column
from torchspeed.data.sources.source import Hole
from torchspeed.data.sources.tree import Path, leaves, same, with_leaves

Rest = Callable[[int], Any]
Leaf = Callable[[int], Any]

_NAMES = {"target", "targets", "label", "labels", "y", "ys", "class", "classes", "class_id", "class_ids"}
_MOST_VALUES = 16  # further samples that are looked at
_MOST_SEARCHED = 4096
_TELLING_VALUES = 4  # as many different ones are no chance


def find_rest(columns: Iterable[Column], seen: dict[int, Any], more: Callable[[int], Any], count: int) -> Rest | None:
    """``i -> rest of sample i``, or None if a leaf of it is found in no column.

    ``seen``: the rests that were looked at; ``more(i)``: that of another sample; ``count``: of all samples.
    """
    first = next(iter(seen.values()))
    shape = [path for path, _ in leaves(first)]
    if any([path for path, _ in leaves(rest)] != shape for rest in seen.values()):
        return None
    parts: dict[Path, Leaf] = {}
    columns = list(columns)
    for path, leaf in leaves(first):
        part = _hole if isinstance(leaf, Hole) else _find_leaf(path, columns, seen, more, count)
        if part is None:
            return None
        parts[path] = part
    return lambda index: with_leaves(first, lambda path: parts[path](index))


def _find_leaf(
    path: Path, columns: list[Column], seen: dict[int, Any], more: Callable[[int], Any], count: int
) -> Leaf | None:
    values = {repr(dict(leaves(rest)).get(path)) for rest in seen.values()}
    if len(values) < _TELLING_VALUES:
        columns = [column for column in columns if column.table or column.name.lstrip("_").lower() in _NAMES]
    for candidate in _candidates(columns):
        if all(_agrees(candidate, index, path, rest) for index, rest in seen.items()):
            others = _one_of_each_value(candidate, count)
            if others is not None and all(_agrees(candidate, index, path, more(index)) for index in others):
                return candidate
    return None


def _candidates(columns: list[Column]) -> Iterator[Leaf]:
    yield int  # the position of the sample itself
    for column in columns:
        for convert in _CONVERSIONS:
            yield lambda index, at=column.at, convert=convert: convert(at(index))  # type: ignore[misc]
        transform = getattr(column.owner, "target_transform", None)
        for convert in (_as_it_is, int) if callable(transform) else ():
            yield lambda index, at=column.at, convert=convert, then=transform: then(convert(at(index)))  # type: ignore[misc]


def _agrees(candidate: Leaf, index: int, path: Path, rest: Any) -> bool:
    leaf = dict(leaves(rest)).get(path, Hole())
    try:
        return same(candidate(index), leaf)
    except Exception:  # values that are no numbers, a transform of other targets
        return False


def _one_of_each_value(candidate: Leaf, count: int) -> list[int] | None:
    """Some samples whose values of the candidate differ from one another; None if it has none for some sample."""
    places: dict[Any, int] = {}
    for index in range(0, count, -(-count // _MOST_SEARCHED)):
        try:
            value = candidate(index)
        except Exception:  # as in _agrees
            return None
        if isinstance(value, (Tensor, np.ndarray, np.generic)):
            value = value.tolist()
        places.setdefault(repr(value), index)
        if len(places) == _MOST_VALUES:
            break
    return list(places.values())


def _as_it_is(value: Any) -> Any:
    return value


def _hole(index: int) -> Hole:
    return Hole()


_CONVERSIONS: tuple[Callable[[Any], Any], ...] = (
    _as_it_is,
    int,
    float,
    torch.as_tensor,
    functools.partial(torch.as_tensor, dtype=torch.int64),
    functools.partial(torch.as_tensor, dtype=torch.float32),
)
