"""What an entry of the cache looks like on the disk; reader and writer agree on it here.

An array is a ``.npy`` file of version 1.0 whose header fills one page of memory. So the data begin on a page (a row
of 4096 bytes touches one page, not two, and the mapping can be registered for transfers to a device), and the number of
rows can be filled in at the end. The header follows from dtype and shape alone, byte for byte: a reader compares it
and parses nothing.

Digests are xxh3_128, one per MiB, so that any part can be checked by itself. They find accidents, not forgers: who can
write in the folder can write the digests too, and therefore nothing is ever unpickled, and every number that is read
is held against the size of the file before it is used.

Source of the format: NumPy's enhancement proposal 1, https://numpy.org/neps/nep-0001-npy-format.html
"""

import json
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

FORMAT = 1
MANIFEST = "cache.json"
MAX_MANIFEST_BYTES = 1 << 26  # the digests of 1.8 TB
HEADER_BYTES = 4096
BLOCK_BYTES = 1 << 20

ARRAY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_PLAIN_NUMBERS = re.compile(r"[<>|](b1|[iu][1248]|f[248]|c8|c16)")


@dataclass(frozen=True)
class ArrayFile:
    """One array of an entry. ``digests``: xxh3_128 of each MiB of the file, in hexadecimal, its header included.

    Raises ValueError for anything but plain numbers in a shape of whole sides.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    digests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _PLAIN_NUMBERS.fullmatch(self.dtype.str):
            raise ValueError(f"dtype {self.dtype} is not plain numbers")
        if not all(type(side) is int and side >= 0 for side in self.shape):
            raise ValueError(f"{self.shape} is not a shape")
        if len(self.header) != HEADER_BYTES:
            raise ValueError(f"a shape of {len(self.shape)} dimensions")

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + self.dtype.itemsize * math.prod(self.shape)

    @property
    def blocks(self) -> int:
        return -(-self.file_bytes // BLOCK_BYTES)

    @property
    def header(self) -> bytes:
        start = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
        text = f"{{'descr': {self.dtype.str!r}, 'fortran_order': False, 'shape': {self.shape}, }}"
        return start + text.encode().ljust(HEADER_BYTES - 11) + b"\n"

    def as_json(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype.str,
            "shape": self.shape,
            "bytes": self.file_bytes,
            "xxh3_128_of_each_mebibyte": self.digests,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ArrayFile":
        """Raises ValueError, KeyError or TypeError for what ``as_json`` does not write."""
        if not _PLAIN_NUMBERS.fullmatch(values["dtype"]):  # before NumPy parses it
            raise ValueError(f"dtype {values['dtype']!r} is not plain numbers")
        file = cls(np.dtype(values["dtype"]), tuple(values["shape"]), tuple(values["xxh3_128_of_each_mebibyte"]))
        if file.file_bytes != values["bytes"] or file.blocks != len(file.digests):
            raise ValueError("size, shape and number of digests do not agree")
        return file


def digest_of_block(descriptor: int, block: int) -> str:
    """xxh3_128 of one MiB of an open file. Read, not mapped: a bad sector is an OSError then, and not a SIGBUS."""
    return xxhash.xxh3_128_hexdigest(os.pread(descriptor, BLOCK_BYTES, block * BLOCK_BYTES))


def seal(manifest: dict[str, Any]) -> bytes:
    """The manifest as text that carries its own digest."""
    return json.dumps({**manifest, "digest": _digest(manifest)}, indent=1).encode()


def unseal(text: bytes) -> dict[str, Any]:
    """The manifest, once its digest is right. Raises ValueError."""
    try:
        manifest = dict(json.loads(text))
        if manifest.pop("digest") == _digest(manifest):
            return manifest
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is not a manifest") from error
    raise ValueError("its digest does not match its content")


def _digest(manifest: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())
