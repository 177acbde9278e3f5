"""The JPEG, PNG and WebP files, or columns of such bytes, that raw images are decoded from."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import xxhash

from torchspeed.data.decode import Header, Kind, Levels, Mode, decode, decode_kinds, read_header
from torchspeed.data.sources.columns import Column, is_hugging_face
from torchspeed.data.sources.identity import array_identity, files_identity, read_file
from torchspeed.data.sources.images import Look, digest
from torchspeed.errors import DataError

Read = Callable[[int], bytes]
Name = Callable[[int], str]

_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Encoded:
    """The bytes of a JPEG, PNG or WebP per sample. ``kinds``: of those that were looked at."""

    column: Column
    read: Read
    path: Name | None
    format: str
    kinds: frozenset[Kind]

    def name(self, index: int) -> str:
        """For errors."""
        return f"sample {index} ({self.path(index) if self.path else f'column {self.column.name}'})"

    def decode(self, index: int, mode: Mode) -> Levels | None:
        """uint8 [H, W, C], or None for an image of another kind than those that were looked at."""
        return decode_kinds(self.read(index), mode, lambda: self.name(index), self.kinds)

    def identity(self, count: int) -> str | None:
        """Of the files or bytes of samples 0 to ``count``; None if some have neither."""
        if self.path:
            return files_identity(map(self.path, range(count)))
        owner, rows = self.column.owner, self.column.rows
        if is_hugging_face(owner) and owner.cache_files and not _null_bytes(self.column):
            of_rows = "" if rows is None else array_identity(rows)  # the files are never changed, only replaced
            return f"{owner._fingerprint} {files_identity(file['filename'] for file in owner.cache_files)} {of_rows}"
        state = xxhash.xxh3_128()
        try:
            for data in map(self.read, range(count)):
                state.update(len(data).to_bytes(8, "big"))
                state.update(data)
        except DataError:
            return None
        return state.hexdigest()


def find_encoded(columns: Iterable[Column], looks: list[Look], mode: Mode, folders: Iterable[str]) -> Encoded | None:
    """The column whose files, or bytes, decode to just the images that were looked at.

    ``folders``: where relative paths may start.
    """
    starts = ["", *folders]
    for column in columns:
        for read, path in _ways_to_read(column, looks[0].index, starts):
            headers = _headers_if_alike(read, looks, mode)
            if headers:
                formats = {header.format for header in headers}
                name = formats.pop() if len(formats) == 1 else "image"
                return Encoded(column, read, path, name, frozenset(header.kind for header in headers))
    return None


def _ways_to_read(column: Column, sample: int, folders: list[str]) -> Iterator[tuple[Read, Name | None]]:
    """If the column holds bytes, or names of files that exist: how the bytes of sample ``i`` are read."""
    try:
        value = column.at(sample)
    except Exception:  # a record without that field, a value that cannot be asked for
        return
    if isinstance(value, bytes) or _has_bytes(value):
        yield lambda index: _bytes_of(column, index), None
    elif isinstance(value, dict) and os.path.isfile(value.get("path") or ""):  # of Hugging Face, not yet embedded
        yield lambda index: read_file(column.at(index)["path"]), lambda index: str(column.at(index)["path"])
    elif isinstance(value, (str, os.PathLike)):
        for folder in folders:
            for suffix in _SUFFIXES:
                name = _joined(column, folder, suffix)
                if os.path.isfile(name(sample)):
                    yield lambda index, name=name: read_file(name(index)), name  # type: ignore[misc]


def _joined(column: Column, folder: str, suffix: str) -> Name:
    return lambda index: os.path.join(folder, os.fspath(column.at(index)) + suffix)


def _has_bytes(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("bytes"), bytes)


def _bytes_of(column: Column, index: int) -> bytes:
    value = column.at(index)
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise DataError(f"sample {index}: column {column.name} holds no bytes for it; remove it")
    return data


def _null_bytes(column: Column) -> int:
    """How many rows of an Arrow column have no bytes."""
    return sum(chunk.field("bytes").null_count for chunk in column.values.chunks)


def _headers_if_alike(read: Read, looks: list[Look], mode: Mode) -> list[Header]:
    """Headers of the images that decode to what was seen, none if the column does not hold the images.

    The user's code may turn an image as EXIF asks, or convert another mode in its own way: such kinds are left out.
    """
    alike: list[Header] = []
    differing: set[Kind] = set()
    try:
        for seen in looks:
            data = read(seen.index)
            header = read_header(data, str)
            if digest(decode(data, mode, str)) == seen.digest:
                alike.append(header)
            elif header.turned or header.mode != mode:
                differing.add(header.kind)
            else:
                return []
    except Exception:  # the column holds something else for this sample
        return []
    return [header for header in alike if header.kind not in differing]
