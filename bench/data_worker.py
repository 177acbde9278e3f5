"""One contender of one work, in a process of its own, for ``data.py``.

A block is a number of batches. Before the clock starts, ``lead`` batches are thrown away: as many as are begun at the
same time, so that at both ends of the clock equally much is under way. Nobody uses the batches; on a GPU they are
there, and it is waited for, when the clock is read. Where an epoch ends within a block, the next one begins in it.

PyTorch's ``DataLoader`` draws as many samples as the block needs, so it never ends an epoch in one: its best case, for
it drains its workers there.

Talks over two pipes: first a line about itself, then, for every line in, one of JSON with what a block gave.
"""

import ctypes
import gc
import itertools
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data_work import CONTEXT, FLOOR, HOP, MELS, N_FFT, SECONDS_OF_SOUND, WORKERS, Options, Work, dataset, work_called

Notes = dict[str, Any]


class Loader(ABC):
    """Gives batches: tuples whose first part is a tensor [B, …], on the device and of the type that the work says.

    ``lead``: how many batches are begun at the same time; ``whole_first_epoch``: something is kept for later epochs.
    ``plan``: what it says of itself.
    """

    lead = 1
    whole_first_epoch = False
    plan = ""

    @abstractmethod
    def batches(self, count: int) -> Iterator[Any]:
        """``count`` batches, or as many as are left of the epoch; whoever stops there leaves nothing running."""


Maker = Callable[[Work, Path, Options, str], Loader]


class WithDataLoader(Loader):
    """What people have."""

    def __init__(self, data: Dataset[Any], work: Work, workers: int, device: str) -> None:
        self.work, self.device, self.lead = work, device, max(1, workers)
        self.draws = Draws(len(cast(Sized, data)))
        self.loader: DataLoader[Any] = DataLoader(
            data,
            work.batch_size,
            sampler=self.draws,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device != "cpu",
        )

    @classmethod
    def make(cls, work: Work, folder: Path, options: Options, device: str) -> Loader:
        return cls(dataset(work, folder, options.get("v2", False)), work, options["workers"], device)

    def batches(self, count: int) -> Iterator[Any]:
        self.draws.count = count * self.work.batch_size
        for first, *others in self.loader:
            yield as_wanted(first, self.work, self.device), *others


class Draws(Sampler[int]):
    """``count`` random ones of ``size`` indices."""

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randint(self.size, (self.count,)).tolist())

    def __len__(self) -> int:
        return self.count


def as_wanted(batch: torch.Tensor, work: Work, device: str) -> torch.Tensor:
    layout = torch.channels_last if work.channels_last else torch.preserve_format
    return batch.to(device, work.dtype, non_blocking=True, memory_format=layout)


class WithTorchspeed(Loader):
    """The same dataset, or one of the library's, in torchspeed's loader. Its epochs are its own, each begun anew."""

    lead = WORKERS
    whole_first_epoch = True

    def __init__(self, work: Work, folder: Path, options: Options, device: str) -> None:
        from torchspeed import DataLoader as Compiled

        data, self.finish = ours(work, folder, options, device)
        named: dict[str, Any] = {name: options[name] for name in ("decode", "placement") if name in options}
        if work.images:
            named["dtype"] = options.get("dtype", work.dtype)
            if options.get("channels_last", work.channels_last):
                named["memory_format"] = torch.channels_last
        self.loader: Any = Compiled(
            data,
            batch_size=work.batch_size,
            shuffle=True,
            seed=0,
            drop_last=True,
            device=device,
            **named,
        )
        self.plan = repr(self.loader)

    def batches(self, count: int) -> Iterator[Any]:
        for first, *others in itertools.islice(self.loader, count):
            yield self.finish(first), *others


def ours(work: Work, folder: Path, options: Options, device: str) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor]]:
    """The dataset that torchspeed is given, and what is still to be done with its batches."""
    if work.name == "characters":
        from torchspeed.data.text import TokenWindows

        return TokenWindows(np.load(folder / "characters.npy"), CONTEXT, random=True), torch.nn.Identity()
    if options.get("dataset") != "library":
        return dataset(work, folder), torch.nn.Identity()
    from torchspeed.data.audio import Recordings, Waveforms
    from torchspeed.data.log_mel import LogMel
    from torchspeed.data.spectrograms import Spectrograms

    with np.load(folder / "spoken_digits.npz") as found:
        samples, labels, rate = torch.from_numpy(found["samples"]), found["labels"], int(found["sample_rate"])
        recordings = Recordings(samples, found["offsets"], torch.from_numpy(labels), rate)
    waveforms, features = Waveforms(recordings, round(SECONDS_OF_SOUND * rate)), LogMel(rate, N_FFT, HOP, MELS, FLOOR)
    if device == "cpu":
        return Spectrograms(waveforms, features), torch.nn.Identity()
    return waveforms, features.to(device)


class Memory:
    """What the memory carries: bytes per second of writing, and of copying, where each byte is read and written.

    On the host, ``WORKERS`` threads with the C library's own routines, which pass the caches by; arrays far larger
    than these. On a GPU one kernel of the driver's.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        shape = (WORKERS, (1 << 24) if device == "cpu" else (1 << 26))
        self.ours = [torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(2)]
        self.pool = ThreadPoolExecutor(WORKERS)

    def block(self) -> Notes:
        source, target = self.ours
        nbytes = source.numel() * 8
        if self.device != "cpu":
            return {
                "write": nbytes / self._best(lambda: target.fill_(1)),
                "copy": nbytes / self._best(lambda: target.copy_(source)),
            }
        rows = list(zip(source.numpy(), target.numpy(), strict=True))
        return {
            "write": nbytes / self._best(lambda: list(self.pool.map(self._set, rows))),
            "copy": nbytes / self._best(lambda: list(self.pool.map(self._copy, rows))),
        }

    @staticmethod
    def _set(row: tuple[Any, Any]) -> None:
        ctypes.memset(row[1].ctypes.data, 1, row[1].nbytes)

    @staticmethod
    def _copy(row: tuple[Any, Any]) -> None:
        ctypes.memmove(row[1].ctypes.data, row[0].ctypes.data, row[0].nbytes)

    def _best(self, call: Callable[[], Any]) -> float:
        times = []
        for _ in range(3):
            wait(self.device)
            began = time.perf_counter()
            call()
            wait(self.device)
            times.append(time.perf_counter() - began)
        return min(times)


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def block(loader: Loader, batches: int, device: str) -> tuple[int, float]:
    """(samples, seconds) of ``batches`` batches after the lead."""
    done, samples, began = 0, 0, 0.0
    gc.collect()
    while done < loader.lead + batches:
        stream = loader.batches(loader.lead + batches - done)
        for first, *_ in stream:
            done += 1
            if done == loader.lead:
                wait(device)
                began = time.perf_counter()
            elif done > loader.lead:
                samples += len(first)
        cast(Any, stream).close()
    wait(device)
    return samples, time.perf_counter() - began


def batches_per_block(loader: Loader, seconds: float, device: str) -> int:
    """How many batches take about ``seconds``, as a multiple of the lead."""
    count = 2 * loader.lead
    while (took := block(loader, count, device)[1]) < seconds / 4:
        count *= 4
    return max(2, round(count * seconds / took / loader.lead)) * loader.lead


def first_epoch(loader: Loader, device: str) -> Notes:
    """Seconds to the first batch, and of the first epoch if that one is unlike the others; and what a batch is."""
    began = time.perf_counter()
    stream = loader.batches(sys.maxsize if loader.whole_first_epoch else 1)
    first, *_ = next(stream)
    wait(device)
    to_first = time.perf_counter() - began
    batch = describe(first)
    for _ in stream:
        pass
    wait(device)
    whole = time.perf_counter() - began if loader.whole_first_epoch else None
    return {"batch": batch, "first_batch_seconds": to_first, "first_epoch_seconds": whole}


def describe(batch: torch.Tensor) -> Notes:
    """By which one sees that contenders do the same."""
    last = batch.dim() == 4 and not batch.is_contiguous() and batch.is_contiguous(memory_format=torch.channels_last)
    values = batch.double()
    return {
        "dtype": str(batch.dtype).removeprefix("torch."),
        "shape": list(batch.shape),
        "channels_last": last,
        "mean": values.mean().item(),
        "std": values.std().item(),
    }


def makers() -> dict[str, Maker]:
    import data_peers

    return {
        "DataLoader": WithDataLoader.make,
        "torchspeed": WithTorchspeed,
        "FFCV": data_peers.WithFFCV,
        "kornia": data_peers.make_kornia,
    }


def serve(name: str, label: str, folder: Path, device: str, seconds: float, tell: Callable[[Notes], None]) -> None:
    """Make the contender, say what that cost, then run a block for each line of standard input."""
    if label == "memory":
        memory = Memory(device)
        tell({"torch": torch.__version__})
        for _ in sys.stdin:
            tell(memory.block())
        return
    if device != "cpu" and not torch.cuda.is_available():
        tell({"unavailable": f"its PyTorch, {torch.__version__}, has no GPU"})
        return
    work = work_called(name)
    contender = work.contender(label)
    began = time.perf_counter()
    try:
        loader = makers()[contender.package](work, folder, contender.options, device)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        if (getattr(error, "name", None) or "").startswith("torchspeed"):
            raise  # a peer may be absent, ours may not
        tell({"unavailable": str(error)})
        return
    built = time.perf_counter() - began
    about = {"torch": torch.__version__, "build_seconds": built, **first_epoch(loader, device)}
    count = batches_per_block(loader, seconds, device)
    tell({**about, "batches_per_block": count, "plan": loader.plan})
    for _ in sys.stdin:
        samples, took = block(loader, count, device)
        tell({"samples_per_second": samples / took, "seconds": took})


def main() -> None:
    name, label, folder, device, seconds = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what packages print is not an answer
    serve(name, label, Path(folder), device, float(seconds), lambda notes: print(json.dumps(notes), file=replies))


if __name__ == "__main__":
    main()
