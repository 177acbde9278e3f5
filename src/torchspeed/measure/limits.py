"""What this machine can do at most, measured: the denominators of every "share of the limit".

A data sheet gives rates for clocks and memory that a given machine may not have: a shared host, two of its cores, a
power cap. So the limits are what PyTorch itself reaches here in its best case: large matrix products and convolutions
per number format, streams over memory, copies to the device, one file read from the disk, and the cost of issuing an
operation that does nothing to speak of. An operation takes at least ``max(FLOPs / matrix rate, bytes / bandwidth)``,
the roofline. What fits into a cache moves five to ten times faster than memory does, so the bandwidth is a curve over
the bytes that an operation touches; with memory's alone a small layer would run at several times its "limit".

A limit that was measured while something else ran on the machine is too low; a note says so.

Sources: Williams, Waterman, Patterson, "Roofline", Communications of the ACM 52 (2009); Ilic, Pratas, Sousa,
"Cache-aware Roofline Model", IEEE Computer Architecture Letters 13 (2014).
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from torchspeed import durable
from torchspeed.fingerprint import fingerprint
from torchspeed.machine import Machine, cache_folder
from torchspeed.measure import probes

_SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float8": "fp8"}
_BUSY = 0.5  # processes waiting to run, per core, from which on a machine is not ours alone


@dataclass(frozen=True)
class Limits:
    """Rates that nothing here was seen to exceed. FLOPs count a multiplication and an addition as two.

    matrix_flops: FLOP/s by format, "float32" first; "tf32" and "float8" are formats of their own. Only those which the
        device has units for.
    memory_bandwidth: bytes/s, read plus written, of a stream far larger than the caches.
    cache_bandwidth: (bytes touched, bytes/s) of streams that fit into a first-level cache up to that one, sizes rising.
    host_to_device: bytes/s from pinned memory; None on a CPU. disk_read: bytes/s of a file that is not in memory; None
        where that cannot be had, with the reason in ``notes``.
    dispatch_seconds: what issuing one tiny operation through PyTorch costs, autograd recording it.
    busy: something else ran on the machine meanwhile, so they may be higher.
    """

    matrix_flops: tuple[tuple[str, float], ...]
    memory_bandwidth: float
    cache_bandwidth: tuple[tuple[int, float], ...]
    host_to_device: float | None
    disk_read: float | None
    dispatch_seconds: float
    threads: int
    date: str
    notes: tuple[str, ...] = ()
    busy: bool = False

    def rate(self, dtype: torch.dtype | str) -> float:
        """FLOP/s of matrix products in ``dtype``; that of float32 for a format without units of its own."""
        rates = dict(self.matrix_flops)
        return rates.get(str(dtype).removeprefix("torch."), rates["float32"])

    def bandwidth(self, touched: float) -> float:
        """bytes/s of an operation that reads and writes ``touched`` bytes, if all that fits into a cache is there."""
        reached = max([size for size, _ in self.cache_bandwidth if size <= touched], default=0)
        rates = [rate for size, rate in self.cache_bandwidth if size >= reached]
        return max(rates, default=self.memory_bandwidth)

    def __str__(self) -> str:
        unit, factor = ("TFLOP/s", 1e12) if self.rate("float32") > 2e12 else ("GFLOP/s", 1e9)
        rates = ", ".join(f"{_SHORT.get(name, name)} {_round(rate / factor)}" for name, rate in self.matrix_flops)
        parts = [f"{rates} {unit}", f"memory {_round(self.memory_bandwidth / 1e9)} GB/s"]
        for name, value in (("host to device", self.host_to_device), ("disk", self.disk_read)):
            if value is not None:
                parts.append(f"{name} {_round(value / 1e9)} GB/s")
        return " · ".join([*parts, f"{_round(self.dispatch_seconds * 1e6)} µs per operation"])


def measured_limits(machine: Machine, *, folder: Path | None = None, fresh: bool = False) -> Limits:
    """The limits of ``machine`` with the threads now in use: kept from before, or measured in about four seconds.

    What was measured while the machine was busy is measured again the next time, and the better of both is kept.

    folder: where ``disk_read`` is measured; None takes the user's cache. fresh: measure even if they are known.
    Never fails for the cache's sake: where it cannot be read or written, a note says so.
    """
    threads = torch.get_num_threads()
    where = None if folder is None else str(folder.resolve())
    path = cache_folder() / "limits" / f"{fingerprint([machine.fingerprint, threads, where])}.json"
    notes = []
    known = None
    if not fresh:
        try:
            known = _from_json(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            known = None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"the limits kept in {path} cannot be read ({error}), so they were measured again")
    if known is not None and not known.busy:
        return known
    limits = _measure(machine, folder or path.parent)
    if known is not None:
        limits = _best(known, limits)
    try:
        durable.publish(path, json.dumps(asdict(limits), indent=1).encode())
    except OSError as error:
        notes.append(f"the limits are measured each time: they cannot be kept in {path.parent} ({error.strerror})")
    return replace(limits, notes=(*limits.notes, *notes))


def _measure(machine: Machine, folder: Path) -> Limits:
    notes = []
    busy = False
    with suppress(OSError, AttributeError):
        waiting = os.getloadavg()[0]
        busy = waiting > _BUSY * machine.cores
        if busy:
            notes.append(f"{waiting:.1f} processes ran on {machine.cores} cores meanwhile, so the limits may be higher")
    device = torch.device(machine.device)
    bandwidths = probes.bandwidths(device)
    disk, reason = probes.disk_read(folder)
    matrix_flops, refused = probes.matrix_flops(machine)
    return Limits(
        matrix_flops=matrix_flops,
        memory_bandwidth=bandwidths[-1][1],
        cache_bandwidth=bandwidths,
        host_to_device=probes.host_to_device(device),
        disk_read=disk,
        dispatch_seconds=probes.dispatch_seconds(device),
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        busy=busy,
        notes=(*notes, *refused, *([reason] if reason else [])),
    )


def _best(known: Limits, measured: Limits) -> Limits:
    """The better of two figures for each limit; the rest is that of ``measured``."""
    rates, bandwidths = dict(known.matrix_flops), dict(known.cache_bandwidth)
    disks = [value for value in (known.disk_read, measured.disk_read) if value is not None]
    return replace(
        measured,
        matrix_flops=tuple((name, max(rate, rates.get(name, 0.0))) for name, rate in measured.matrix_flops),
        cache_bandwidth=tuple((size, max(rate, bandwidths.get(size, 0.0))) for size, rate in measured.cache_bandwidth),
        memory_bandwidth=max(known.memory_bandwidth, measured.memory_bandwidth),
        disk_read=max(disks, default=None),
        dispatch_seconds=min(known.dispatch_seconds, measured.dispatch_seconds),
    )


def _from_json(text: str) -> Limits:
    """Raises ValueError, KeyError, TypeError or AttributeError for what ``_keep`` did not write."""
    found: dict[str, Any] = json.loads(text)
    limits = Limits(
        **{
            **found,
            "matrix_flops": tuple((str(name), float(rate)) for name, rate in found["matrix_flops"]),
            "cache_bandwidth": tuple((int(size), float(rate)) for size, rate in found["cache_bandwidth"]),
            "notes": tuple(map(str, found["notes"])),
        }
    )
    optional = [value for value in (limits.host_to_device, limits.disk_read) if value is not None]
    rates = [rate for _, rate in (*limits.matrix_flops, *limits.cache_bandwidth)]
    if not all(value > 0 for value in (limits.memory_bandwidth, limits.dispatch_seconds, *rates, *optional)):
        raise ValueError("a rate is not positive")
    limits.rate("float32")
    return limits


def _round(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
