"""``DatasetSource``: the user's own code, and the shorter ways to its images and labels that were found beside it."""

import os
import threading
from typing import Any, final

from torchspeed.data.decode import Levels
from torchspeed.data.fetch import raised_at
from torchspeed.data.sources.compare import Shortcuts
from torchspeed.data.sources.images import as_levels
from torchspeed.data.sources.probe import Reader
from torchspeed.data.sources.source import Holds, Opaque, Source
from torchspeed.errors import DataError, TorchspeedError
from torchspeed.fingerprint import fingerprint


@final
class DatasetSource(Source):
    """``compared``: the number of samples for which the shortcuts agree with ``reader``."""

    def __init__(self, reader: Reader, holds: Holds, shortcuts: Shortcuts, compared: int) -> None:
        array, files = shortcuts.array, shortcuts.files
        self.transform, self.holds, self.mode, self.compared = reader.transform, holds, shortcuts.mode, compared
        self._reader, self._array, self._files, self._rest = reader, array, files, shortcuts.rest
        self._locks: dict[int, threading.Lock] = {}
        if array is not None:
            self.kind = f"{type(array.column.owner).__name__} array"
            self.levels, self.rows = array.levels, array.rows
        elif files is not None:
            self.kind = f"{files.format} {'files' if files.path else 'column'}"
            self.encoded, self.kinds = files.read, files.kinds
        else:
            self.kind = f"{type(reader.dataset).__name__} samples"

    def __len__(self) -> int:
        return len(self._reader.dataset)

    def raw(self, index: int) -> tuple[Any, Any]:
        try:
            with self._lock():
                return self._reader.take(index)
        except Opaque as reason:
            raise DataError(f"{reason}, unlike the samples that were looked at; load it as it is written") from reason
        except TorchspeedError:
            raise
        except Exception as error:
            raise _raised(index, error) from error

    def image(self, index: int) -> Levels:
        if self._array is not None:
            return self._array[index]
        if self.mode is None:
            raise DataError(f"sample {index}: its image has no 8-bit levels of one mode; ask for it by raw()")
        try:
            levels = None if self._files is None else self._files.decode(index, self.mode)
        except DataError as error:
            return self._image_of_raw(index, error)
        return self._image_of_raw(index) if levels is None else levels

    def rest(self, index: int) -> Any | None:
        try:
            return None if self._rest is None else self._rest(index)
        except Exception as error:  # of a target_transform
            raise _raised(index, error) from error

    def identity(self) -> str | None:
        images: str | None = None
        if self._array is not None:
            owner, images = self._array.column.owner, self._array.identity()
        elif self._files is not None:
            owner, images = self._files.column.owner, self._files.identity(len(self))
        if images is None:
            return None
        return fingerprint([type(self._reader.dataset), type(owner), len(self), self.holds, self.mode, images])

    def _lock(self) -> threading.Lock:
        """Code that knows only worker processes need not bear two threads. A process has a lock of its own: one that
        another thread held while the process was forked would never be released."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _image_of_raw(self, index: int, undecoded: DataError | None = None) -> Levels:
        """What cannot be decoded here, the user's code may still read: another format, say."""
        try:
            raw, _ = self.raw(index)
        except DataError as error:
            raise undecoded or error from error
        levels = as_levels(raw)
        if levels is None or levels.shape[2] != (3 if self.mode == "RGB" else 1):
            found = getattr(raw, "mode", None) or f"shape {list(getattr(raw, 'shape', ()))}"
            raise DataError(
                f"sample {index}: an image of {found} where the others are {self.mode}; convert it in the dataset"
            )
        return levels


def _raised(index: int, error: Exception) -> DataError:
    return DataError(f"sample {index} raised {type(error).__name__}: {error}{raised_at(error)}")
