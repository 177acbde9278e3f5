"""The measurements behind ``Limits``: each the best of many repeats, because a limit is what the machine can do, not
what it did while something else ran.

Matrix rates take the best of several shapes: one product alone is a poor judge. Measured on a 2-core AVX-512 machine,
oneDNN's bf16 products reach 360 GFLOP/s for 2048³ and 810 for 256×2048×2048, its fp32 convolutions twice its products.
Bandwidths take the best of a copy, a sum of two arrays and a reduction, after McCalpin's STREAM. On a CPU each is tried
with one thread too: where another process holds a core, a kernel of all threads waits at its end for the last of them.
"""

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.levers.hardware.precision import Precision
from torchspeed.machine import Machine, free_memory

_FORMATS = (
    ("float32", torch.float32, None),
    ("tf32", torch.float32, "tf32"),
    ("bfloat16", torch.bfloat16, "bf16"),
    ("float16", torch.float16, "fp16"),
)
_BLOCK_SECONDS = {"cpu": 2e-5, "cuda": 2e-3, "mps": 2e-3}  # far longer than clock and launch take
_STREAM_SECONDS, _MATRIX_SECONDS, _COPY_SECONDS = 0.06, 0.2, 0.3  # for each size, each shape, and the copies
_CPU_STREAMS = tuple(2**power for power in (18, 20, 22, 24, 26, 28))  # bytes touched, first-level cache to memory
_GPU_STREAMS = tuple(2**power for power in (22, 24, 26, 28, 30, 32))
_DISK_BYTES, _DISK_SECONDS = 64 * 2**20, 0.7
_RESIDENT = 0.05  # share of a file's pages still in memory from which on its disk is not what is measured


def matrix_flops(machine: Machine) -> tuple[tuple[tuple[str, float], ...], list[str]]:
    """((format, FLOP/s), …) of the formats that the device has units for, and a sentence for each that failed."""
    rates, notes = [], []
    for name, dtype, option in _FORMATS:
        try:
            if option is not None:
                Precision().check(Facts(), machine, option)
            with _float32_products("tf32" if name == "tf32" else "ieee"):
                rates.append((name, max(_matrix_rates(torch.device(machine.device), dtype))))
        except NotApplicable:
            continue
        except RuntimeError as error:
            if name == "float32":
                raise
            notes.append(f"{name} could not be measured: {error}".splitlines()[0])
    if machine.device == "cuda" and (machine.compute_capability or (0, 0)) >= (8, 9):
        try:
            rates.append(("float8", _float8_rate()))
        except RuntimeError as error:
            notes.append(f"float8 could not be measured: {error}".splitlines()[0])
    return tuple(rates), notes


def bandwidths(device: torch.device) -> tuple[tuple[int, float], ...]:
    """(bytes touched, bytes/s read plus written), sizes rising; the last is far larger than the caches."""
    sizes = _CPU_STREAMS if device.type == "cpu" else _GPU_STREAMS
    room = free_memory() if device.type != "cuda" else torch.cuda.mem_get_info(device)[0]
    found = []
    for size in [size for size in sizes if size <= room // 4] or sizes[:1]:
        count = size // 12
        one, two, three = (torch.ones(count, device=device) for _ in range(3))
        streams: tuple[tuple[int, Callable[[], object]], ...] = (
            (12, lambda: torch.add(one, two, out=three)),  # noqa: B023
            (8, lambda: two.copy_(one)),  # noqa: B023
            (4, lambda: one.sum()),  # noqa: B023
        )
        rates = [width * count / best_seconds(call, device, _STREAM_SECONDS) for width, call in streams]
        found.append((size, max(rates)))
    return tuple(found)


def host_to_device(device: torch.device) -> float | None:
    """bytes/s from pinned host memory to a GPU; None on a CPU."""
    if device.type == "cpu":
        return None
    host = torch.ones(2**28, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = host.to(device)
    return host.numel() / best_seconds(lambda: there.copy_(host, non_blocking=True), device, _COPY_SECONDS)


def dispatch_seconds(device: torch.device) -> float:
    """Seconds to issue one operation on a single number, autograd recording it."""
    number = torch.ones(1, device=device, requires_grad=True)

    def issue() -> float:
        started = time.perf_counter()
        for _ in range(500):  # a GPU's queue holds about a thousand
            number + 1
        return (time.perf_counter() - started) / 500

    with torch.enable_grad():
        best = float("inf")
        for _ in range(20):
            best = min(best, issue())
            _wait(device)
    return best


def disk_read(folder: Path) -> tuple[float | None, str]:
    """bytes/s of reading a file from ``folder`` whose pages were dropped from memory, and else the reason why not."""
    if not hasattr(os, "posix_fadvise"):
        return None, "the disk is not measured: this system has no posix_fadvise to drop a file from memory"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
    except OSError:
        folder = Path(tempfile.gettempdir())
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
    try:
        with file:
            descriptor, written, started = file.fileno(), 0, time.perf_counter()
            while written < _DISK_BYTES and time.perf_counter() - started < _DISK_SECONDS:
                written += file.write(os.urandom(2**20))  # random, so that no file system compresses it
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if _share_in_memory(descriptor, written) > _RESIDENT:
                return None, f"the disk is not measured: the file system of {folder} keeps its files in memory"
            buffer, read, started = bytearray(2**20), 0, time.perf_counter()
            while time.perf_counter() - started < _DISK_SECONDS and (got := os.preadv(descriptor, [buffer], read)):
                read += got
            return read / (time.perf_counter() - started), ""
    except OSError as error:
        return None, f"the disk is not measured: {folder}: {error.strerror}"


def best_seconds(call: Callable[[], object], device: torch.device, budget: float) -> float:
    """Seconds of one ``call`` in the fastest of several blocks of them; about ``budget`` seconds in all."""
    if device.type != "cpu" or torch.get_num_threads() == 1:
        return _best_block(call, device, budget)
    threads = torch.get_num_threads()
    together = _best_block(call, device, budget / 2)
    try:
        torch.set_num_threads(1)
        return min(together, _best_block(call, device, budget / 2))
    finally:
        torch.set_num_threads(threads)


def _best_block(call: Callable[[], object], device: torch.device, budget: float) -> float:
    call()  # allocations, kernel selection
    _wait(device)
    calls, best, end = 1, float("inf"), time.perf_counter() + budget
    while True:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        _wait(device)
        now = time.perf_counter()
        best = min(best, (now - started) / calls)
        if now > end:
            return best
        if now - started < _BLOCK_SECONDS[device.type]:
            calls *= 2


def _matrix_rates(device: torch.device, dtype: torch.dtype) -> Iterator[float]:
    """FLOP/s of products, of a wide linear layer and of a convolution, each kind as layers of a network call it."""
    generator = torch.Generator(device).manual_seed(0)  # a GPU clocks higher on zeros; and nobody's generator moves

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device, dtype=torch.float32).to(dtype) - 0.5

    large = device.type != "cpu"
    products = [(4096, 4096, 4096), (8192, 8192, 8192)] if large else [(1024, 1024, 1024), (256, 2048, 2048)]
    with torch.no_grad():
        for rows, inner, columns in products:
            left, right = random(rows, inner), random(columns, inner).t()
            yield 2 * rows * inner * columns / best_seconds(lambda: left @ right, device, _MATRIX_SECONDS)  # noqa: B023
        batch, channels, side = (256, 256, 32) if large else (32, 128, 16)
        images = random(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
        weight = random(2 * channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
        flops = 2 * batch * side**2 * 9 * channels * 2 * channels
        yield flops / best_seconds(lambda: torch.conv2d(images, weight, padding=1), device, _MATRIX_SECONDS)


def _float8_rate() -> float:
    size = 8192
    left, right = (torch.ones(size, size, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    scale = torch.ones((), device="cuda")
    device = torch.device("cuda")

    def product() -> Tensor:
        return torch._scaled_mm(left, right.t(), scale, scale, out_dtype=torch.bfloat16, use_fast_accum=True)

    return 2 * size**3 / best_seconds(product, device, _MATRIX_SECONDS)


@contextmanager
def _float32_products(precision: str) -> Iterator[None]:
    """CUDA's products and convolutions of float32 in "ieee" or "tf32", and then as the user had them."""
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = precision
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def _share_in_memory(descriptor: int, size: int) -> float:
    """Share of a file's pages in the page cache: some file systems ignore the advice to drop them."""
    pages = -(-size // mmap.PAGESIZE)
    resident = (ctypes.c_ubyte * pages)()
    with mmap.mmap(descriptor, size) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), resident
        )
        del start  # a map with a reference into it cannot be closed
    if failed:
        raise OSError(ctypes.get_errno(), "the system does not tell which pages of a file are in memory")
    return sum(page & 1 for page in resident) / pages


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
