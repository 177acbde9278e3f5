"""What a sample holds besides its image, known without loading the image.

Most datasets keep their labels in a list or array beside the images. The column is found by what it holds: for every
sample that was looked at it must give the very leaf, type included, as it is, as a number or tensor, or after the
``target_transform``. Several columns may do so (labels, and the same with some corrected): where they differ from one
another, one more sample tells which to drop. And a few samples may agree by chance where most labels are equal. So
more are looked at, one for each of several values that the column has; and where hardly any values were seen, the
column must be a label by name or belong to a table of the samples.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
    candidates = [
        candidate
        for ways in _candidates(columns)
        if (candidate := next((way for way in ways if _agrees_with_all(way, path, seen)), None))
    ]
    while candidates:
        first, *others = candidates
        index = next((i for other in others if (i := _first_that_differs(first, other, count)) is not None), None)
        if index is None:
            each = _one_of_each_value(first, count)
            return first if each is not None and _agrees_with_all(first, path, {i: more(i) for i in each}) else None
        rest = more(index)
        candidates = [candidate for candidate in candidates if _agrees(candidate, index, path, rest)]
    return None


@dataclass(frozen=True)
class _Candidate:
    """``i -> then(convert(value of the column))``; the position of the sample itself where there is no column."""

    column: Column | None
    convert: Callable[[Any], Any]
    then: Callable[[Any], Any] | None = None

    def __call__(self, index: int) -> Any:
        value = self.convert(index if self.column is None else self.column.at(index))
        return value if self.then is None else self.then(value)


def _candidates(columns: list[Column]) -> Iterator[list[_Candidate]]:
    """Ways to read a column that differ in type alone are together: of these, those seen before tell enough."""
    yield [_Candidate(None, int)]
    for column in columns:
        yield [_Candidate(column, convert) for convert in _CONVERSIONS]
        transform = getattr(column.owner, "target_transform", None)
        if callable(transform):
            yield [_Candidate(column, convert, transform) for convert in (_as_it_is, int)]


def _first_that_differs(a: _Candidate, b: _Candidate, count: int) -> int | None:
    """The first sample for which they give another leaf, None if there is none."""
    samples: Iterable[int] = range(count)
    of_a, of_b = _numbers(a.column, count), _numbers(b.column, count)
    if of_a is not None and of_b is not None:
        if a.then is None and b.then is None:
            samples = np.flatnonzero(of_a != of_b).tolist()
        else:  # once for each pair of values, as the transform is slow
            (_, places_a), (values_b, places_b) = (np.unique(of, return_inverse=True) for of in (of_a, of_b))
            _, first = np.unique(places_a * len(values_b) + places_b, return_index=True)
            samples = np.sort(first).tolist()
    return next((index for index in samples if not same(_leaf_or_error(a, index), _leaf_or_error(b, index))), None)


def _numbers(column: Column | None, count: int) -> NDArray[Any] | None:
    """[count] numbers, or None for a column of something else."""
    if column is None:
        return np.arange(count)
    try:
        if isinstance(column.values, (Tensor, np.ndarray)) and column.field is None:
            values = np.asarray(column.values)
            values = values if column.rows is None else values[column.rows]
        else:
            values = np.asarray([column.at(index) for index in range(count)])
    except Exception:  # values of several shapes, a record without that field
        return None
    return values if values.ndim == 1 and values.dtype.kind in "biuf" else None


def _leaf_or_error(candidate: _Candidate, index: int) -> Any:
    try:
        return candidate(index)
    except Exception as error:  # as in _agrees
        return type(error)


def _agrees_with_all(candidate: Leaf, path: Path, rests: dict[int, Any]) -> bool:
    return all(_agrees(candidate, index, path, rest) for index, rest in rests.items())


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
