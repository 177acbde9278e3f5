"""Open an entry of the cache: nothing is mapped before it was checked, and what was checked is what is mapped.

Every file is opened once, below one descriptor of the folder. So all arrays are of one generation even if another
process replaces the entry meanwhile, and a file that is swapped after its check is not the one that gets mapped.

Checked always: the manifest and its digest, the fingerprint, the header of each array byte for byte, its size to the
byte (a truncated file would be a SIGBUS hours later), and the digest of its first and last MiB. The rest is a matter of
price: full digests read everything. Up to ``check_bytes`` everything is checked, at memory speed where the pages are in
memory anyway; of a larger entry as many MiB are, drawn anew at each opening. So a replaced file is found, a
lasting single flipped bit in N times ``check_bytes`` with probability 1/N at each opening.

Out of reach: a program that writes into a published file, or truncates it, while it is mapped. Files are published
read-only to make that unlikely; torchspeed itself publishes by rename and never writes into what is there.
"""

import errno
import mmap
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.cache import layout
from torchspeed.data.cache.layout import ArrayFile
from torchspeed.errors import DataError, StorageError

CHECK_BYTES = 1 << 30
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EIO}


class Missing(Exception):
    """There is no such entry."""


class Unusable(Exception):
    """The entry is damaged, or is not what it should be; says which file and what was found."""


@dataclass(frozen=True)
class Cache:
    """An entry of the cache, open.

    arrays: read-only memory maps by name.
    total_bytes: size of their files; checked_bytes: as many met their digests when the entry was opened.
    built: True if this process built it just now.
    notes: a sentence for whatever else happened: another process was waited for, a damaged entry was built again.
    """

    path: Path
    arrays: dict[str, NDArray[Any]]
    total_bytes: int
    checked_bytes: int
    built: bool = False
    notes: tuple[str, ...] = ()


def read(entry: Path, fingerprint: str, check_bytes: int | None) -> Cache:
    """Check an entry and map its arrays. ``check_bytes``: see above; None checks all.

    Raises Missing and Unusable; DataError if a later torchspeed wrote it; StorageError if it may not be read.
    """
    with ExitStack() as opened:
        try:
            folder = _open(opened, entry, None, os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise Missing from error
        except OSError as error:
            _raise(entry, error)
        with _findings(entry, layout.MANIFEST):
            files = _read_manifest(_open(opened, layout.MANIFEST, folder), entry, fingerprint)
        descriptors = {}
        for name, file in files.items():
            with _findings(entry, f"{name}.npy"):
                descriptors[name] = _open(opened, f"{name}.npy", folder)
                _check_shape(descriptors[name], file)
        chosen = _chosen(files, check_bytes)
        for name, block in chosen:
            with _findings(entry, f"{name}.npy"):
                if layout.digest_of_block(descriptors[name], block) != files[name].digests[block]:
                    raise Unusable(f"its content does not match its digest (MiB {block} of {files[name].blocks})")
        arrays = {}
        for name, file in files.items():
            with _findings(entry, f"{name}.npy"):
                arrays[name] = _map(descriptors[name], file)
    total = sum(file.file_bytes for file in files.values())
    return Cache(entry, arrays, total, min(total, len(chosen) * layout.BLOCK_BYTES))


def _open(opened: ExitStack, path: Path | str, folder: int | None, flags: int = 0) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=folder)  # a pipe would wait for its writer
    opened.callback(os.close, descriptor)
    return descriptor


def _read_manifest(descriptor: int, entry: Path, fingerprint: str) -> dict[str, ArrayFile]:
    size = os.fstat(descriptor).st_size
    if size > layout.MAX_MANIFEST_BYTES:
        raise ValueError(f"{size:,} bytes are too many")
    manifest = layout.unseal(os.pread(descriptor, size, 0))
    version = manifest["format"]
    if isinstance(version, int) and version > layout.FORMAT:
        raise DataError(
            f"{entry}: its format {version} is newer than {layout.FORMAT}, which this torchspeed reads; upgrade it, or "
            "remove that folder"
        )
    if version != layout.FORMAT:
        raise Unusable(f"format {version!r} where {layout.FORMAT} is read")
    if manifest["fingerprint"] != fingerprint:
        raise Unusable(f"the fingerprint {manifest['fingerprint']!r}, of other data")
    for name in manifest["files"]:
        if not layout.ARRAY_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an array")
    return {name: ArrayFile.from_json(values) for name, values in manifest["files"].items()}


def _check_shape(descriptor: int, file: ArrayFile) -> None:
    size = os.fstat(descriptor).st_size
    if size != file.file_bytes:
        raise Unusable(f"{size:,} bytes where {layout.MANIFEST} says {file.file_bytes:,}")
    if os.pread(descriptor, layout.HEADER_BYTES, 0) != file.header:
        raise Unusable(f"its header is not that of {file.dtype} {list(file.shape)}")


def _chosen(files: dict[str, ArrayFile], check_bytes: int | None) -> list[tuple[str, int]]:
    """The blocks to check, in the order in which they lie on the disk."""
    every = [(name, block) for name, file in files.items() for block in range(file.blocks)]
    budget = len(every) if check_bytes is None else -(-check_bytes // layout.BLOCK_BYTES)
    if len(every) <= budget:
        return every
    ends = {(name, end) for name, file in files.items() for end in (0, file.blocks - 1)}
    inner = [block for block in every if block not in ends]
    return sorted(ends.union(random.SystemRandom().sample(inner, max(0, min(len(inner), budget - len(ends))))))


def _map(descriptor: int, file: ArrayFile) -> NDArray[Any]:
    mapped = mmap.mmap(descriptor, file.file_bytes, access=mmap.ACCESS_READ)
    return np.ndarray(file.shape, file.dtype, buffer=mapped, offset=layout.HEADER_BYTES)


@contextmanager
def _findings(entry: Path, what: str) -> Iterator[None]:
    """Say which file it was."""
    try:
        yield
    except Unusable as finding:
        raise Unusable(f"{what}: {finding}") from finding
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Unusable(f"{what}: damaged: {error}") from error
    except OSError as error:
        _raise(entry / what, error)


def _raise(path: Path, error: OSError) -> None:
    """Damage can be built again; what merely may not be read here, or not now, must not be thrown away."""
    if error.errno in _DAMAGE:
        raise Unusable(f"{path.name}: {error.strerror}") from error
    raise StorageError(
        f"{path}: cannot be read: {error.strerror}; make it readable, or choose another folder"
    ) from error
