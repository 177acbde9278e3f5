"""Fill the arrays of an entry that is being built.

A disk that is full shows itself to a memory map as SIGBUS, which kills the process without a word. So the blocks of an
array are reserved when it is made: a disk that is too small is found before the work and not after it, as an error.
(Setting the size alone makes a hole, which reserves nothing.)
"""

import errno
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from torchspeed.data.cache import layout
from torchspeed.data.cache.layout import ArrayFile
from torchspeed.errors import StorageError


@final
class Writer:
    """Makes the arrays of one entry. Fill them before the build returns, and do not touch them afterwards.

    ``budget_bytes``: what may be written at most, or None.
    """

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._claimed_bytes = 0
        self._parts: dict[str, _Fixed | Rows] = {}
        self._failure: StorageError | None = None

    def array(self, name: str, dtype: DTypeLike, shape: Sequence[int]) -> NDArray[Any]:
        """Zeros to be filled: a writable memory map of the file ``name.npy``, its space on the disk reserved.

        Raises ValueError for a name that is taken and for dtypes that are not plain numbers, StorageError where there
        is no space for it.
        """
        about = ArrayFile(np.dtype(dtype), tuple(int(side) for side in shape))
        part = _Fixed(self._create(name, about), about)
        self._parts[name] = part
        with self.writing(name, about.file_bytes):
            return part.reserve()

    def rows(self, name: str, dtype: DTypeLike, row_shape: Sequence[int] = ()) -> "Rows":
        """An array that grows by ``append``, for when the number of rows is known only at the end. Raises as above."""
        about = ArrayFile(np.dtype(dtype), (0, *(int(side) for side in row_shape)))
        part = Rows(self, name, self._create(name, about), about)
        self._parts[name] = part
        return part

    @contextmanager
    def writing(self, name: str, count: int) -> Iterator[None]:
        """Around the writing of ``count`` bytes: holds them against the budget, and an error of the disk is kept.

        Kept, so that a build that swallows it is not published all the same.
        """
        self._claimed_bytes += count
        try:
            if self._budget_bytes is not None and self._claimed_bytes > self._budget_bytes:
                raise StorageError(
                    f"{self._folder.parent}: with {name}.npy the cache needs {self._claimed_bytes:,} bytes, more than "
                    f"the {self._budget_bytes:,} that it was granted; grant more, or do not cache these data"
                )
            with storage_errors(self._folder.parent, f"{name}.npy", count):
                yield
        except StorageError as error:
            self._failure = error
            raise

    def finish(self) -> dict[str, ArrayFile]:
        """Bring every file to the disk, make it read-only, and take its digests."""
        if self._failure is not None:
            raise self._failure
        files = {}
        for name, part in self._parts.items():
            with self.writing(name, 0):
                about = part.finish()
                descriptor = part.file.fileno()
                os.fsync(descriptor)
                os.fchmod(descriptor, os.fstat(descriptor).st_mode & 0o555)
                digests = tuple(layout.digest_of_block(descriptor, block) for block in range(about.blocks))
                files[name] = ArrayFile(about.dtype, about.shape, digests)
        return files

    def close(self) -> None:
        for part in self._parts.values():
            part.file.close()

    def _create(self, name: str, about: ArrayFile) -> BinaryIO:
        """The new file, with its header."""
        if not layout.ARRAY_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name an array; letters, digits, '_', '.' and '-' can")
        if name in self._parts:
            raise ValueError(f"the array {name!r} was made already")
        with self.writing(name, 0):
            file = (self._folder / f"{name}.npy").open("xb+", buffering=0)
            file.write(about.header)
            return file


class _Fixed:
    """An array whose shape is known."""

    def __init__(self, file: BinaryIO, about: ArrayFile) -> None:
        self.file, self.about = file, about

    def reserve(self) -> NDArray[Any]:
        _reserve(self.file, self.about.file_bytes)
        self.mapped = mmap.mmap(self.file.fileno(), self.about.file_bytes)
        self.values: NDArray[Any] = np.ndarray(
            self.about.shape, self.about.dtype, buffer=self.mapped, offset=layout.HEADER_BYTES
        )
        return self.values

    def finish(self) -> ArrayFile:
        self.values.flags.writeable = False  # whoever keeps it shall not write into what is published
        self.mapped.flush()
        return self.about


@final
class Rows:
    """An array that grows. ``Writer.rows`` makes it; one thread at a time may append."""

    def __init__(self, writer: Writer, name: str, file: BinaryIO, about: ArrayFile) -> None:
        self.file = file
        self._writer, self._name, self._about = writer, name, about
        self._count = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add ``values`` [n, *row_shape], of the dtype of the array. Raises ValueError for others, StorageError."""
        row_shape = self._about.shape[1:]
        if values.dtype != self._about.dtype or values.ndim == 0 or values.shape[1:] != row_shape:
            raise ValueError(
                f"{self._name}: found {values.dtype} {list(values.shape)}; its rows are {self._about.dtype} "
                f"{list(row_shape)}"
            )
        with self._writer.writing(self._name, values.nbytes):
            left = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            while left:
                left = left[self.file.write(left) :]
        self._count += len(values)

    def finish(self) -> ArrayFile:
        about = ArrayFile(self._about.dtype, (self._count, *self._about.shape[1:]))
        self.file.seek(0)
        self.file.write(about.header)
        return about


@contextmanager
def storage_errors(root: Path, what: str, needed: int = 0) -> Iterator[None]:
    """What the system refuses to write, as a StorageError that says what was needed and what is free."""
    try:
        yield
    except OSError as error:
        space = f" ({needed:,} bytes, where {shutil.disk_usage(root).free:,} are free)" if needed else ""
        raise StorageError(
            f"{root}: the cache cannot be written: {error.strerror}: {what}{space}; make room, or choose another folder"
        ) from error


def _reserve(file: BinaryIO, count: int) -> None:
    """Make the file ``count`` bytes long, and all of them have their place on the disk."""
    disk = os.fstatvfs(file.fileno())
    if count > disk.f_bavail * disk.f_frsize:  # the call below would first fill the disk, for all who share it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        os.posix_fallocate(file.fileno(), 0, count)
    except (AttributeError, OSError) as error:  # macOS has no such call, some file systems refuse it
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        left = count - file.seek(0, os.SEEK_END)
        zeros = bytes(layout.BLOCK_BYTES)
        while left > 0:
            left -= file.write(zeros[:left])
