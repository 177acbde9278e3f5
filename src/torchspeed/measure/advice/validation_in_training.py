"""Validation samples that are trained on.

The metric then says how well the model remembers, and a goal is "reached" that new data would miss. What is compared
are samples before their augmentation: rows of the same tensor, indices into the same dataset, and, where data were read
twice or copied, digests of content. Some data repeat themselves (few features, blank pictures), so equal content only
counts where it is much more frequent between the two sets than inside the training set.
Source: Kaufman et al., "Leakage in data mining", ACM TKDD 6(4), 2012; Barz & Denzler, arXiv:1902.00423, on CIFAR.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from torchspeed.data.batched import ConcatBatches, SubsetBatches
from torchspeed.data.fetch import generators_kept, seed_generators
from torchspeed.data.sources.columns import Column, columns
from torchspeed.data.sources.probe import ProbingReader, Reader, slots
from torchspeed.data.sources.source import Opaque
from torchspeed.data.sources.tree import is_pil, leaves
from torchspeed.measure.advice.subject import Advice, Subject

_LOOKS, _SECONDS = 256, 1.0
_LEAST, _MORE_THAN_INSIDE = 0.05, 5
_Ways = dict[int, tuple[Any, np.ndarray[Any, Any]]]  # id of a dataset -> it, and the samples of it that are used


def validation_in_training(subject: Subject) -> Iterator[Advice]:
    train, valid = getattr(subject.run.loader, "dataset", None), getattr(subject.run.valid, "dataset", None)
    if train is None or valid is None:
        return
    train, valid = _as_written(train), _as_written(valid)
    same = _same_indices(train, valid)
    with generators_kept():
        effect = _counted(same, len(valid)) if same else _same_content(train, valid)
    if effect:
        yield Advice(
            "validation_in_training",
            subject.job_line("valid"),
            "the validation set is, in part or whole, in the training set",
            f"{effect}: the metric says how well they are remembered",
            "split before either is made, for instance torch.utils.data.random_split(data, [0.9, 0.1])",
        )


def _as_written(dataset: Any) -> Any:
    origin = getattr(dataset, "origin", None)  # of a dataset that was compiled
    return origin[0] if origin else dataset


def _counted(same: int, of: int) -> str:
    return f"{same:,} of {of:,} validation samples are trained on" if same else ""


def _same_indices(train: Any, valid: Any) -> int:
    """Samples of one dataset that both use; a dataset is one object."""
    ours, theirs = _ways(train), _ways(valid)
    return sum(len(np.intersect1d(ours[key][1], theirs[key][1])) for key in ours.keys() & theirs.keys())


def _ways(dataset: Any, rows: Any = None) -> _Ways:
    """The datasets at the bottom of subsets and sums, with the samples that are used."""
    rows = np.arange(len(dataset)) if rows is None else rows
    inner: Any = dataset
    if isinstance(dataset, (Subset, SubsetBatches)):
        return _ways(inner.dataset, np.asarray(inner.indices)[rows])
    if isinstance(dataset, (ConcatDataset, ConcatBatches)):
        ends = np.cumsum([len(part) for part in inner.datasets])
        found: _Ways = {}
        for part, end in zip(inner.datasets, ends.tolist(), strict=True):
            start = end - len(part)
            for key, (owner, more) in _ways(part, rows[(rows >= start) & (rows < end)] - start).items():
                known = found[key][1] if key in found else np.empty(0, np.int64)
                found[key] = owner, np.union1d(known, more)
        return found
    return {id(dataset): (dataset, rows)}


def _same_content(train: Any, valid: Any) -> str:
    """What to say of equal content; "" for none that counts. Looks for as long as ``_SECONDS`` allow, twice."""
    digest_of_train, digest_of_valid = _digests(train, valid)
    places = np.unique(np.linspace(0, len(valid) - 1, _LOOKS).astype(int)).tolist()
    looked = [digest_of_valid(place) for place in _in_time(places)]
    # First where a copy would have them, then everywhere: a training set is seldom read in a second.
    order = dict.fromkeys([*(place for place in places if place < len(train)), *range(len(train))])
    digests = [digest_of_train(place) for place in _in_time(order)]
    seen = set(digests)
    found = sum(digest in seen for digest in looked)
    repeated = 1 - len(seen) / len(digests)
    if found < max(2, _LEAST * len(looked)) or found / len(looked) <= _MORE_THAN_INSIDE * repeated:
        return ""
    return f"{found:,} of {len(looked):,} validation samples that were looked at are trained on"


def _in_time(places: Iterable[int]) -> Iterator[int]:
    end = time.monotonic() + _SECONDS
    for place in places:
        yield place
        if time.monotonic() > end:
            return


def _digests(train: Any, valid: Any) -> tuple[Callable[[int], str], Callable[[int], str]]:
    """Index -> digest, for each set: of a row in memory where both keep such rows, or else of the raw sample."""
    ours, theirs = _rows(train), _rows(valid)
    if ours is not None and theirs is not None and ours.name == theirs.name:
        return partial(_digest_of_row, ours), partial(_digest_of_row, theirs)
    return partial(_digest_of_sample, train, _reader(train)), partial(_digest_of_sample, valid, _reader(valid))


def _rows(dataset: Any) -> Column | None:
    """The largest array that has a row for each sample, as it is before any transform."""
    arrays = [column for column in columns(dataset) if column.field is None and getattr(column.values, "ndim", 0) > 1]
    return max(arrays, key=lambda column: int(column.values[0].nbytes), default=None)


def _digest_of_row(column: Column, index: int) -> str:
    return xxhash.xxh3_128_hexdigest(_content(column.at(index)))


def _digest_of_sample(dataset: Any, reader: Reader | None, index: int) -> str:
    seed_generators(index)  # what draws by itself then draws the same in both sets
    sample = reader.take(index) if reader is not None else dataset[index]
    return xxhash.xxh3_128_hexdigest(b"".join(_content(leaf) for _, leaf in leaves(sample)))


def _reader(dataset: Any) -> Reader | None:
    for slot in slots(dataset):
        try:
            reader = ProbingReader(dataset, slot)
            reader.take(0)
        except Opaque:
            continue
        return reader
    return None


def _content(leaf: Any) -> bytes:
    if isinstance(leaf, Tensor):
        leaf = leaf.detach().cpu().float().numpy() if leaf.dtype == torch.bfloat16 else leaf.detach().cpu().numpy()
    if is_pil(leaf):
        return repr(leaf.size).encode() + bytes(leaf.tobytes())
    if isinstance(leaf, np.ndarray):
        return repr((leaf.dtype.str, leaf.shape)).encode() + bytes(np.ascontiguousarray(leaf).data)
    return repr(leaf).encode() if isinstance(leaf, (int, float, str, bytes, type(None))) else b""
