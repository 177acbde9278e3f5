"""Whole samples, computed once: for datasets that are not understood, but always give the same.

A dataset of one's own that reads a recording and makes a spectrogram of it, or tokenizes a line of text, does the same
work for the same sample in every epoch. It need not be understood to be kept; it must only be deterministic, which is
tried on some samples, and its samples must be numbers of one shape.
"""

import time
from collections.abc import Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from torchspeed.batch import map_tensors
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.pipeline.compiled import Compiled, Kept
from torchspeed.data.pipeline.determinism import varies
from torchspeed.data.pipeline.rest import all_tensors
from torchspeed.data.pipeline.settings import Row, Settings
from torchspeed.errors import DataError, NotApplicable
from torchspeed.machine import free_memory, usable_cores

_TRIED = 16
_TOGETHER = 64
_CHEAP_SECONDS, _LONG_SECONDS = 1e-4, 10.0


def keep_samples(dataset: Dataset[Any], settings: Settings, why: str) -> Compiled:
    """``why``: the sentence why the dataset could not be taken apart. Raises ``NotApplicable`` if it cannot be kept."""
    count = len(cast("Sized", dataset))
    if settings.placement not in ("auto", "ram"):
        raise NotApplicable(f"{why}; whole samples are kept in RAM alone")
    items = np.unique(np.linspace(0, count - 1, _TRIED).astype(np.int64)).tolist()
    for item in items:
        try:
            reason = varies(lambda item=item: dataset[item])  # type: ignore[misc]
        except Exception as error:
            raise NotApplicable(f"{why}; and sample {item} raised {type(error).__name__}: {error}") from error
        if reason is not None:
            raise NotApplicable(f"{why}; and sample {item} {reason}")
    try:
        sample = default_collate([dataset[items[0]]])
        default_collate([dataset[item] for item in items])
    except (TypeError, RuntimeError) as error:
        raise NotApplicable(f"{why}; and its samples are not numbers of one shape: {error}") from error
    if not all_tensors(sample):
        raise NotApplicable(f"{why}; and its samples hold texts or other things that are not numbers")
    sizes: list[int] = []
    map_tensors(sample, lambda tensor: sizes.append(tensor.nbytes))
    need, have = sum(sizes) * count, free_memory() // 2 if settings.budget_bytes is None else settings.budget_bytes
    if need > have:
        raise NotApplicable(f"{why}; and all of it, {need / 1e9:.1f} GB, is more than the {have / 1e9:.1f} GB granted")
    started = time.perf_counter()
    for item in items:
        dataset[item]
    each = (time.perf_counter() - started) / len(items)
    if settings.placement == "auto" and each < _CHEAP_SECONDS and each * count > _LONG_SECONDS:
        raise NotApplicable(
            f"{why}; and a sample takes {each * 1e6:.0f} µs, so that keeping {count} of them, {each * count:.0f} s of "
            'work, gains little; placement="ram" keeps them all the same'
        )
    return Kept(
        count,
        [Row(type(dataset).__name__, f"once, kept in RAM ({need / 1e6:.0f} MB)", f"always gives the same ({why})")],
        lambda: _all(dataset, count, sample),
    )


def _all(dataset: Dataset[Any], count: int, sample: Any) -> Any:
    """All samples, by the user's own code in processes: nested tensors whose first dimension is ``count``."""
    columns = map_tensors(sample, lambda tensor: torch.empty((count, *tensor.shape[1:]), dtype=tensor.dtype))
    loader = OrderedLoader(dataset, _TOGETHER, workers=usable_cores())
    for number, batch in enumerate(loader.epoch(0)):
        _write(columns, batch, number * _TOGETHER)
    return columns


def _write(columns: Any, batch: Any, start: int) -> None:
    if isinstance(columns, Tensor):
        if batch.shape[1:] != columns.shape[1:] or batch.dtype != columns.dtype:
            raise DataError(
                f"samples from {start} on are {batch.dtype} {list(batch.shape[1:])} where the first is {columns.dtype} "
                f"{list(columns.shape[1:])}; make them equal"
            )
        columns[start : start + len(batch)] = batch
    elif isinstance(columns, dict):
        for key in columns:
            _write(columns[key], batch[key], start)
    else:
        for column, part in zip(columns, batch, strict=True):
            _write(column, part, start)
