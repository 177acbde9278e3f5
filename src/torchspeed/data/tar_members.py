"""Read a few files out of a ``.tar.gz`` in memory.

Nothing is extracted, so no name in the archive can reach the disk; what is left to guard is memory. A megabyte of
gzip can hold a gigabyte of zeros, in a member or in a header that ``tarfile`` reads whole, so the one bound is on
the decompressed stream itself. A link, a device or a path that leaves the archive has no place in a data set.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from torchspeed.errors import DataError


def read_tar_members(path: Path, names: Collection[str], max_bytes: int) -> dict[str, bytes]:
    """The members of the archive ``path`` that are called ``names``; others are passed over.

    ``max_bytes`` bounds the whole archive when decompressed. Raises ``DataError`` naming the archive and the member.
    """
    found: dict[str, bytes] = {}
    try:
        with gzip.open(path) as stream:
            bounded = _Bounded(stream, path, max_bytes)
            with tarfile.open(fileobj=bounded, mode="r|") as tar:
                for member in tar:
                    _check(member, path)
                    content = tar.extractfile(member) if member.name in names else None
                    if content is not None:
                        found[member.name] = content.read()
            while bounded.read(1 << 16):  # to the very end, where gzip keeps its checksum
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: torn, or not a .tar.gz ({error}); get it again") from error
    missing = sorted(set(names) - set(found))
    if missing:
        raise DataError(f"{path}: without {', '.join(missing)}; get it again")
    return found


def _check(member: tarfile.TarInfo, path: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path}: refused, its member {member.name!r} points outside the archive")
    if not (member.isreg() or member.isdir()):
        raise DataError(f"{path}: refused, its member {member.name!r} is a link or a device, not a file")


class _Bounded(io.RawIOBase):
    """A stream that ends in an error instead of a full memory."""

    def __init__(self, stream: gzip.GzipFile, path: Path, max_bytes: int) -> None:
        self.stream, self.path, self.left, self.max_bytes = stream, path, max_bytes, max_bytes

    def readinto(self, buffer: Any) -> int:
        count = self.stream.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise DataError(f"{self.path}: refused, it holds more than {self.max_bytes:,} bytes when decompressed")
        return count
