"""``read``: any map-style dataset as a ``Source``, as far as looking at some of its samples can tell."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, IterableDataset

from torchspeed.data.fetch import generators_kept
from torchspeed.data.sources.columns import Column, columns, is_hugging_face
from torchspeed.data.sources.compare import Shortcuts, compared
from torchspeed.data.sources.dataset_source import DatasetSource
from torchspeed.data.sources.encoded import find_encoded
from torchspeed.data.sources.examine import REPLAYS, examine, one_more, replay, some_samples
from torchspeed.data.sources.images import Look, common_mode, find_array
from torchspeed.data.sources.labels import find_rest
from torchspeed.data.sources.probe import NotAsked, PlainReader, ProbingReader, Reader, slots
from torchspeed.data.sources.source import Opaque, Source
from torchspeed.errors import DataError

_MOST_INSIDE = 64  # entries of a folder that are looked at for folders


def read(dataset: Any, seconds: float = 1.0) -> Source:
    """The dataset taken apart. It and the generators stay as they are.

    For so many ``seconds`` the shorter ways to images and labels are compared with the user's code, on at most all
    samples; a way that differs for one of them is not taken.

    Raises ``Opaque`` with the reason where it cannot be taken apart, ``DataError`` where one of the samples that are
    looked at (about 16) raises by itself.
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise Opaque(f"{type(dataset).__name__} is not map-style: it has no __getitem__ and __len__")
    if isinstance(dataset, ConcatDataset):
        raise Opaque("the datasets in a ConcatDataset may differ in everything: each is read by itself")
    if is_hugging_face(dataset) and dataset.format["type"] == "custom":
        raise Opaque("its set_transform is given whole rows; torchspeed.hugging_face() takes a transform of images")
    if len(dataset) == 0:
        raise DataError(f"{type(dataset).__name__}: the data are empty (length 0)")
    reasons: list[Opaque] = []
    with generators_kept():
        for reader in _readers(dataset, reasons):
            try:
                return _read(reader, seconds)
            except Opaque as reason:
                reasons.append(reason)
    raise next((reason for reason in reasons if not isinstance(reason, NotAsked)), reasons[0])


def _readers(dataset: Any, reasons: list[Opaque]) -> Iterator[Reader]:
    """The ways in which the dataset may be taken apart; ``reasons`` takes why one of them is none."""
    for slot in slots(dataset):
        try:
            yield ProbingReader(dataset, slot)
        except Opaque as reason:
            reasons.append(reason)
    yield PlainReader(dataset)


def _read(reader: Reader, seconds: float) -> Source:
    count = len(reader.dataset)
    samples = some_samples(count)
    looks, rests = examine(reader, samples)
    replay(reader, [*samples[: REPLAYS - 1], samples[-1]])
    found = columns(reader.dataset)

    def more(index: int) -> tuple[Look, Any]:
        return one_more(reader, index)

    array = find_array(found, looks, lambda index: more(index)[0], count)
    mode = common_mode(looks)
    files = None if array or mode is None else find_encoded(found, looks, mode, _folders(reader.dataset, found, looks))
    rest = find_rest(found, rests, lambda index: more(index)[1], count)
    shortcuts, number = compared(Shortcuts(mode, array, files, rest), more, looks, count, seconds)
    return DatasetSource(reader, looks[0].holds, shortcuts, number)


def _folders(dataset: Any, found: list[Column], looks: list[Look]) -> list[str]:
    """Where the files of the images may lie: folders that an attribute names, those in them, and where one did lie."""
    owners = {id(owner): owner for owner in [dataset, *(column.owner for column in found)]}.values()
    values = [value for owner in owners for value in getattr(owner, "__dict__", {}).values()]
    named = [os.fspath(value) for value in values if isinstance(value, (str, os.PathLike))]
    named = [folder for folder in dict.fromkeys(named) if os.path.isdir(folder)]
    inside = [inner for folder in named for inner in _folders_in(folder)]
    seen = [os.fspath(parent) for parent in Path(looks[0].file or "").parents[:2]]
    return list(dict.fromkeys([*named, *seen, *inside]))


def _folders_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.path for entry in islice(entries, _MOST_INSIDE) if entry.is_dir()]
