"""The columns of a dataset: whatever its attributes hold one of for each sample.

Arrays of images, lists of paths, lists of (path, label), tables, the tensors of a ``TensorDataset``, a column of a
Hugging Face dataset; and those of the datasets that it wraps, followed through the indices of a subset. What a column
is for is not guessed from its name: it is compared with what the samples hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.sources.probe import is_dataset

Rows = NDArray[np.int64]

_MAX_DEPTH = 6
_MAX_FIELDS = 64


@dataclass(frozen=True)
class Column:
    """Sample ``i`` has ``values[rows[i]]``, or its field ``field``.

    ``owner``: the dataset whose attribute ``name`` it is. ``rows``: int64 [N], or None for ``values[i]``. ``table``:
    it is one of several columns of a table, or a field of records, that belongs to the samples.
    """

    owner: Any
    name: str
    values: Any
    rows: Rows | None
    field: Any = None
    table: bool = False

    def at(self, index: int) -> Any:
        value = self.values[index if self.rows is None else int(self.rows[index])]
        if self.field is not None:
            value = value[self.field]
        return value.as_py() if hasattr(value, "as_py") else value  # a value of Arrow


def columns(dataset: Any) -> list[Column]:
    """Those of the dataset itself first, then those of the datasets inside."""
    return list(_columns(dataset, None, _MAX_DEPTH))


def is_hugging_face(owner: Any) -> bool:
    """``datasets.Dataset``, known by what it can do."""
    return hasattr(owner, "cast_column") and hasattr(getattr(owner, "data", None), "column")


def _columns(owner: Any, rows: Rows | None, depth: int) -> Iterator[Column]:
    length = len(owner)
    if is_hugging_face(owner):
        yield from _arrow_columns(owner, rows)
        return
    attributes = getattr(owner, "__dict__", {})
    for name, value in attributes.items():
        yield from _in_attribute(owner, name, value, rows, length)
    for value in attributes.values() if depth else ():
        if is_dataset(value):
            for inner_rows in _ways_in(owner, value, length):
                yield from _columns(value, _through(rows, inner_rows), depth - 1)


def _in_attribute(owner: Any, name: str, value: Any, rows: Rows | None, length: int) -> Iterator[Column]:
    if hasattr(value, "iloc"):  # of pandas
        table = value if hasattr(value, "columns") else value.to_frame()
        for position in range(min(table.shape[1], _MAX_FIELDS) if len(table) == length else 0):
            yield Column(owner, name, table.iloc[:, position].to_numpy(), rows, table=True)
    elif isinstance(value, dict):
        for key, item in value.items():
            if _is_column(item, length):
                yield Column(owner, f"{name}[{key!r}]", item, rows, table=True)
    elif isinstance(value, tuple) and value and all(_is_column(item, length) and _is_array(item) for item in value):
        for position, item in enumerate(value[:_MAX_FIELDS]):
            yield Column(owner, f"{name}[{position}]", item, rows, table=True)
    elif _is_column(value, length):
        yield Column(owner, name, value, rows)
        first = value[0] if isinstance(value, (list, tuple)) and length else None
        fields = list(first)[:_MAX_FIELDS] if isinstance(first, dict) else range(_width(first))
        for field in fields:
            yield Column(owner, name, value, rows, field, table=True)


def _ways_in(owner: Any, inner: Any, length: int) -> Iterator[Rows | None]:
    """By which rows of ``inner`` the samples of ``owner`` may be made: those in an attribute, or else one by one."""
    count = len(inner)
    for value in vars(owner).values():
        indices = _as_indices(value, length, count)
        if indices is not None:
            yield indices
    if count == length:
        yield None


def _as_indices(value: Any, length: int, count: int) -> Rows | None:
    """int64 [length] with values in [0, count), or None for what are no such numbers."""
    if not isinstance(value, (np.ndarray, Tensor, list, tuple, range)) or not _has_length(value, length):
        return None
    if isinstance(value, (list, tuple)) and not isinstance(value[0], (int, np.integer)):
        return None
    try:
        indices = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= count:
        return None
    return indices.astype(np.int64)


def _through(outer: Rows | None, inner: Rows | None) -> Rows | None:
    if outer is None or inner is None:
        return inner if outer is None else outer
    return inner[outer]


def _is_column(value: Any, length: int) -> bool:
    arrow = hasattr(value, "to_pylist") and hasattr(value, "type")
    return (isinstance(value, (np.ndarray, Tensor, list, tuple)) or arrow) and _has_length(value, length)


def _has_length(value: Any, length: int) -> bool:
    return not (_is_array(value) and value.ndim == 0) and len(value) == length


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Tensor))


def _width(record: Any) -> int:
    return min(len(record), _MAX_FIELDS) if isinstance(record, (tuple, list)) else 0


def _arrow_columns(owner: Any, rows: Rows | None) -> Iterator[Column]:
    chosen = getattr(owner, "_indices", None)  # after select, shuffle, filter
    if chosen is not None:
        rows = _through(rows, chosen.column(0).to_numpy())
    for name in owner.column_names[:_MAX_FIELDS]:
        yield Column(owner, name, owner.data.column(name), rows, table=True)
