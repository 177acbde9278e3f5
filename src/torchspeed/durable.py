"""Bytes that are on the disk when we say so.

``write`` and ``rename`` change the page cache; what reaches the disk, and in which order, is the file system's affair
until ``fsync``. A file's content needs the fsync of the file, its *name* that of the folder which lists it. So whoever
publishes something writes it elsewhere, fsyncs file and folder, renames, and fsyncs the parent.

Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until its content is on the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fsync_folder(path: Path) -> None:
    """Wait until the names that a folder lists are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(path: Path, content: bytes) -> None:
    """Put a whole file in the place of ``path``; whoever reads it finds the old or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    fsync_folder(path.parent)
