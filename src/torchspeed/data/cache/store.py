"""Build an entry of the cache once, whoever else wants it, and publish it whole.

The build goes on in a folder of its own, under a lock; the order is write → fsync → manifest → fsync folder → rename
→ fsync parent. So a reader finds all or nothing and needs no lock. What it has mapped stays as it was: a published file
is never written to, and an entry that is replaced is renamed away and removed, which leaves its pages to those who
have them mapped.

The lock is the system's (flock), which releases it when its holder dies, whatever the way. So whoever holds the lock of
an entry knows that any half-built folder of that entry is a dead process's, and removes it: no pid is compared with the
living, no clock is read.
"""

import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from torchspeed import durable
from torchspeed.data.cache import layout
from torchspeed.data.cache.reader import CHECK_BYTES, Cache, Missing, Unusable, read
from torchspeed.data.cache.writer import Writer, storage_errors
from torchspeed.errors import StorageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_FINGERPRINT = re.compile(r"[0-9a-f]{8,64}")
_LEFTOVER = re.compile(r"\.(?:building|aside)-(?P<entry>.+)-\d+-[0-9a-f]{8}")


def open_or_build(
    root: Path,
    name: str,
    fingerprint: str,
    build: Callable[[Writer], None],
    *,
    about: str = "",
    budget_bytes: int | None = None,
    check_bytes: int | None = CHECK_BYTES,
    wait_seconds: float | None = None,
) -> Cache:
    """Open the entry ``root/NAME-FINGERPRINT``, after ``build`` has filled it if it is missing or damaged.

    fingerprint: hexadecimal; must change with everything that the content depends on (data, code, versions).
    build: makes and fills arrays. One process at a time is in it for an entry; the others wait, then open.
    about: words for those who look into ``cache.json``.
    budget_bytes: granted to a build: must be free before it begins, and it may not write more. None: no bound.
    check_bytes: how much content is held against its digests at opening, see ``torchspeed.data.cache.reader``;
        None checks everything.
    wait_seconds: how long another process's build is waited for; None waits for its end.

    Raises StorageError where the folder cannot be written, is too small, or the wait was too long; DataError for an
    entry of a newer format; and whatever ``build`` raises, after which nothing of it remains.
    """
    entry = entry_path(root, name, fingerprint)
    with suppress(Missing, Unusable):
        return read(entry, fingerprint, check_bytes)
    started = time.monotonic()
    with _hold(entry, wait_seconds):
        notes = _sweep(root, entry)
        with suppress(Missing):
            try:
                cache = read(entry, fingerprint, check_bytes)
                notes.append(f"{entry}: waited {time.monotonic() - started:.1f} s for another process, which built it")
                return replace(cache, notes=tuple(notes))
            except Unusable as finding:
                notes.append(f"{entry}: {finding}; built again{_put_away(entry)}")
        cache = _build(entry, fingerprint, build, about, budget_bytes)
        return replace(cache, built=True, notes=tuple(notes))


def entry_path(root: Path, name: str, fingerprint: str) -> Path:
    """Where an entry lies once it is published. Raises ValueError for what cannot name one."""
    if not _NAME.fullmatch(name) or not _FINGERPRINT.fullmatch(fingerprint):
        raise ValueError(
            f"{name!r}, {fingerprint!r}: an entry is named by letters, digits, '_', '.' and '-', and its fingerprint "
            "is 8 to 64 hexadecimal digits"
        )
    return root / f"{name}-{fingerprint}"


def _build(
    entry: Path, fingerprint: str, build: Callable[[Writer], None], about: str, budget_bytes: int | None
) -> Cache:
    root = entry.parent
    free = shutil.disk_usage(root).free
    if budget_bytes is not None and free < budget_bytes:
        raise StorageError(
            f"{root}: {free:,} bytes are free where {budget_bytes:,} may be needed for the cache; make room, or choose "
            "another folder"
        )
    scratch = _beside(entry, "building")
    started = time.monotonic()
    try:
        with storage_errors(root, scratch.name):
            scratch.mkdir()
        with closing(Writer(scratch, budget_bytes)) as writer:
            build(writer)
            files = writer.finish()
        manifest = {
            "format": layout.FORMAT,
            "fingerprint": fingerprint,
            "built": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "build_seconds": round(time.monotonic() - started, 3),
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
            "about": about,
            "files": {name: file.as_json() for name, file in files.items()},
        }
        with storage_errors(root, layout.MANIFEST):
            durable.write(scratch / layout.MANIFEST, layout.seal(manifest))
            durable.fsync_folder(scratch)
            cache = read(scratch, fingerprint, 0)  # what is mapped stays mapped when the folder gets its name
            scratch.rename(entry)
            durable.fsync_folder(root)
            return replace(cache, path=entry)
    except (Missing, Unusable) as finding:
        raise StorageError(f"{entry}: was built, but cannot be read back: {finding}; check the disk") from finding
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # once published it has another name


@contextmanager
def _hold(entry: Path, wait_seconds: float | None) -> Iterator[None]:
    """Be the only process that builds ``entry``. Raises StorageError."""
    root, lock = entry.parent, _lock(entry)
    if root.exists() and not root.is_dir():
        raise StorageError(f"{root}: is a file; choose a folder for the cache")
    with storage_errors(root, "no lock can be had"):
        root.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=-1 if wait_seconds is None else wait_seconds)
        except Timeout as error:
            builders = [path.name for path in root.glob(f".building-{entry.name}-*")]
            raise StorageError(
                f"{entry}: another process has been building it for more than {wait_seconds:g} seconds "
                f"({', '.join(builders) or lock.lock_file}, pid before the last '-'); see whether it is stopped"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _lock(entry: Path) -> FileLock:
    return FileLock(entry.with_name(f".{entry.name}.lock"))


def _beside(entry: Path, purpose: str) -> Path:
    return entry.with_name(f".{purpose}-{entry.name}-{os.getpid()}-{secrets.token_hex(4)}")


def _sweep(root: Path, held: Path) -> list[str]:
    """Remove what dead builders left, of the entry whose lock we hold and of others whose lock nobody holds."""
    notes = []
    for path in root.glob(".*"):
        if not (match := _LEFTOVER.fullmatch(path.name)):
            continue
        owner = root / match["entry"]
        lock = _lock(owner)
        try:
            if owner != held:
                lock.acquire(timeout=0)
            if _remove(path):
                notes.append(f"{path}: removed, left by a process that died")
        except OSError:
            continue  # alive, or another user's
        finally:
            lock.release()
    return notes


def _put_away(entry: Path) -> str:
    """Move an entry out of the way and remove it; says so where it holds what is not ours to remove."""
    aside = _beside(entry, "aside")
    with storage_errors(entry.parent, entry.name):
        entry.rename(aside)
    return "" if _remove(aside) else f" (what was there is not ours to remove: it is kept as {aside})"


def _remove(path: Path) -> bool:
    """Remove a folder that holds nothing but what an entry is made of; anything else stays."""
    if path.is_symlink() or not path.is_dir():
        return False
    names = [item.name for item in path.iterdir()]
    if any(name != layout.MANIFEST and not name.endswith(".npy") for name in names):
        return False
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()
