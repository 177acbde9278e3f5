"""Who hands out memory, and whether what was freed is kept for the next step.

Physically: every operation of a step asks for its output and frees it again. glibc returns large blocks to the system
at once, so the next step gets them as fresh pages, each of which traps into the kernel and is zeroed: 19 000 faults in
a step of a 3-convolution CNN with batch 128. "glibc" keeps them (no fault left, 940 → 1 280 images/s on one core);
"huge-pages" also has them in pages of 2 MiB, so that one entry of the TLB does the work of 512 (batch 256, two cores:
1 680 as written, 2 427, 2 587); "jemalloc" and "tcmalloc" do the same by another design, with less waiting between
threads. On a GPU "expandable" lets segments of the caching allocator grow instead of adding further ones, against
fragmentation with changing shapes. It wins where activations are large. It loses memory: what was freed stays with
the process, and a huge page is held for its last byte; small models gain nothing. EXACT: the same numbers at other
addresses.

Source: https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html;
https://docs.pytorch.org/docs/stable/notes/cuda.html, "Optimizing memory usage"; https://jemalloc.net/jemalloc.3.html
"""

import ctypes
import os
import re
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from ctypes.util import find_library
from pathlib import Path
from typing import final

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Option, ProcessLever
from torchspeed.machine import Machine, environment
from torchspeed.run import Run

_TOP_PAD = 64 << 20  # bytes asked of the system at a time
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLES = {
    "glibc.malloc.hugetlb": "1",
    "glibc.malloc.mmap_max": "0",
    "glibc.malloc.trim_threshold": str(1 << 62),
    "glibc.malloc.top_pad": str(_TOP_PAD),
}
_JEMALLOC = {
    "dirty_decay_ms": "-1",
    "muzzy_decay_ms": "-1",
    "oversize_threshold": "0",  # blocks of 8 MiB and more would be returned at once
    "thp": "always",
    "metadata_thp": "auto",
}
_TCMALLOC = {"TCMALLOC_RELEASE_RATE": "0", "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(1 << 62)}
_FILES = {
    "jemalloc": ("libjemalloc.so.2", "libjemalloc.so"),
    "tcmalloc": ("libtcmalloc.so.4", "libtcmalloc_minimal.so.4", "libtcmalloc.so", "libtcmalloc_minimal.so"),
}
_PACKAGES = {"jemalloc": "libjemalloc2", "tcmalloc": "libtcmalloc-minimal4"}
_SYMBOLS = {"jemalloc": "mallctl", "tcmalloc": "tc_version"}


def keep_freed_memory() -> None:
    """From now on glibc's malloc keeps what is freed, whatever its size. Raises NotApplicable without glibc."""
    _glibc()
    process = ctypes.CDLL(None)
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD)):
        if not process.mallopt(parameter, value):
            raise NotApplicable(f"this glibc refuses mallopt({parameter}, {value})")


def with_settings(text: str | None, settings: Mapping[str, str], equals: str, separator: str) -> str:
    """``text``, a list of settings such as GLIBC_TUNABLES, with ``settings`` in it; all others stay as they are."""
    there = [part for part in (text or "").split(separator) if part]
    kept = [part for part in there if part.partition(equals)[0].strip() not in settings]
    return separator.join([*kept, *(f"{name}{equals}{value}" for name, value in settings.items())])


def find_allocator(name: str) -> str | None:
    """The shared library of "jemalloc" or "tcmalloc" on this system; None if it is not installed."""
    folders = [Path(folder) for folder in (environment("LD_LIBRARY_PATH") or "").split(":") if folder]
    if conda := environment("CONDA_PREFIX"):
        folders.append(Path(conda) / "lib")
    folders += [Path("/usr/local/lib"), Path("/usr/lib64"), Path("/usr/lib")]
    folders.append(Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH")))
    found = (str(folder / file) for folder in folders for file in _FILES[name] if (folder / file).exists())
    return next(found, None) or find_library(name) or find_library(f"{name}_minimal")


@final
class Allocator(ProcessLever):
    name = "allocator"
    pillar = "hardware"
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY, Bound.OVERHEAD})
    usual_gain = 3.0  # decided early: with the heap at rest, all that follows is measured ten times as precisely

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "huge-pages", "glibc", "jemalloc", "tcmalloc", "expandable")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if option == "expandable":
            if machine.device != "cuda":
                raise NotApplicable(
                    f"expandable segments are for the memory of NVIDIA GPUs; this is a {machine.device}"
                )
        elif option in _FILES:
            _library(str(option))
        else:
            version = _glibc()
            if option == "huge-pages":
                _check_huge_pages(version)

    def environ(self, option: Option) -> Mapping[str, str]:
        if option == "huge-pages":
            return {"GLIBC_TUNABLES": with_settings(environment("GLIBC_TUNABLES"), _TUNABLES, "=", ":")}
        if option == "expandable":
            name = "PYTORCH_ALLOC_CONF" if environment("PYTORCH_ALLOC_CONF") else "PYTORCH_CUDA_ALLOC_CONF"
            return {name: with_settings(environment(name), {"expandable_segments": "True"}, ":", ",")}
        if option in _FILES:
            return {"LD_PRELOAD": _preloading(_library(str(option))), **_variables(str(option))}
        return {}  # "glibc" is set from inside

    def apply(self, run: Run, option: Option) -> None:
        process = ctypes.CDLL(None)
        if option == "glibc":
            for other, symbol in _SYMBOLS.items():
                if hasattr(process, symbol):
                    raise NotApplicable(f"this process was started with {other} in place of glibc's allocator")
            keep_freed_memory()
        for name, value in self.environ(option).items():
            if environment(name) != value:
                raise NotApplicable(f"it acts before Python is loaded; start this process with {name}={value}")
        if option in _SYMBOLS and not hasattr(process, _SYMBOLS[str(option)]):
            raise NotApplicable(f"{_library(str(option))} was not loaded, although LD_PRELOAD names it")


def _glibc() -> tuple[int, int]:
    """The version of glibc, which tells the numbers of a release apart from a system without it."""
    with suppress(AttributeError, ValueError, OSError):
        found = re.fullmatch(r"glibc (\d+)\.(\d+).*", os.confstr("CS_GNU_LIBC_VERSION") or "")
        if found:
            return int(found[1]), int(found[2])
    raise NotApplicable("this system's C library is not glibc")


def _check_huge_pages(version: tuple[int, int]) -> None:
    if version < (2, 35):
        raise NotApplicable(f"huge pages need glibc 2.35; this is {version[0]}.{version[1]}")
    try:
        modes = _HUGE_PAGES.read_text().strip()
    except OSError as error:
        raise NotApplicable(f"this kernel has no transparent huge pages ({_HUGE_PAGES}: {error.strerror})") from error
    if "[never]" in modes:
        raise NotApplicable(f"{_HUGE_PAGES} says {modes}; an administrator can write madvise into it")


def _library(name: str) -> str:
    found = find_allocator(name)
    if found is None:
        raise NotApplicable(f"{name} is not installed; on Debian and Ubuntu: apt install {_PACKAGES[name]}")
    return found


def _variables(name: str) -> dict[str, str]:
    if name == "jemalloc":
        return {"MALLOC_CONF": with_settings(environment("MALLOC_CONF"), _JEMALLOC, ":", ",")}
    return {variable: environment(variable) or value for variable, value in _TCMALLOC.items()}


def _preloading(library: str) -> str:
    before = [path for path in re.split("[: ]", environment("LD_PRELOAD") or "") if path]
    return ":".join(before if library in before else [*before, library])
