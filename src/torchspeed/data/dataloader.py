"""``torchspeed.DataLoader``: PyTorch's, as a drop-in, with the pipeline behind it compiled.

    for images, labels in torchspeed.DataLoader(dataset, batch_size=256, shuffle=True, seed=0):

The dataset is the one that people have, torchvision transforms and all. Order and augmentation follow from (seed,
epoch, index): they are the same for any number of workers and ranks, and a run resumes in mid-epoch at no cost.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from torchspeed.batch import map_tensors
from torchspeed.data.device_feed import DeviceFeed
from torchspeed.data.fetch import generators_kept, seed_generators
from torchspeed.data.kernels.jit import compile_seconds
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.pipeline.compile import compile_loader, transforms_of
from torchspeed.data.pipeline.compiled import Compiled, Lowered
from torchspeed.data.pipeline.parts import Parts
from torchspeed.data.pipeline.program import DTYPES
from torchspeed.data.pipeline.settings import DECODES, PLACEMENTS, Decode, Placement, Settings
from torchspeed.data.pipeline.table import render
from torchspeed.data.random import sample_keys
from torchspeed.data.source import as_dataset
from torchspeed.errors import DeviceError, JobError, NotApplicable
from torchspeed.machine import Machine, usable_cores

_HANDING_OVER_SECONDS = 2e-4  # a batch from a thread to the consumer, and the lock that they share
_TRIES = 3
_SHOWN_SECONDS = 0.1


class DataLoader:
    """Batches of ``dataset``; each pass over the loader is the next epoch.

    dataset, batch_size, shuffle, sampler, num_workers, collate_fn, drop_last, prefetch_factor: as PyTorch's; generator
        gives the seed; pin_memory, persistent_workers and timeout are taken and change nothing. With a
        ``collate_fn`` nothing is compiled: it is given single samples. num_workers: None is a thread per core where
        batches are made by machine code and a batch takes longer than to hand it over, and otherwise none. batch_size
        counts the samples over all ranks.
    seed: of order and augmentation. rank, world_size: this process's share of every batch.
    device: where the batches go.
    dtype, memory_format: of the images; None: as the transforms give them.
    placement, decode, cache_dir, budget_bytes: see ``torchspeed.data.pipeline.settings.Settings``.
    batch_transform: a function of a whole batch, such as MixUp or CutMix of torchvision.transforms.v2, which is given
        the batch as its arguments. Its draws follow from (seed, epoch, number of the batch).
    compile: False leaves everything as written.
    max_bad_samples: how many samples that cannot be read may be set aside; see ``set_aside``.

    The dataset is read when the loader is made. A transform that is put in place of another one later is noticed at
    the next pass; what is changed inside a transform, or other attributes of the dataset, is not: make a new loader.

    ``repr`` shows what is done where. Raises JobError, DeviceError and DataError for
    what cannot be loaded.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Sampler[int] | None = None,
        batch_sampler: None = None,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        placement: Placement = "auto",
        decode: Decode = "exact",
        cache_dir: str | Path | None = None,
        budget_bytes: int | None = None,
        batch_transform: Callable[..., Any] | None = None,
        compile: bool = True,
        rank: int = 0,
        world_size: int = 1,
        max_bad_samples: int = 0,
    ) -> None:
        if sampler is not None and shuffle:
            raise JobError("sampler and shuffle exclude each other: the sampler is the order")
        if batch_sampler is not None:
            raise JobError("batch_sampler is not read: give batch_size and sampler, or use PyTorch's DataLoader")
        for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("seed", seed, 0)):
            if number is not None and (not isinstance(number, int) or number < least):
                raise JobError(f"{name}={number!r}; it is a whole number, at least {least}")
        if not 0 <= rank < world_size or max_bad_samples < 0:
            raise JobError(f"rank={rank}, world_size={world_size}, max_bad_samples={max_bad_samples}: out of range")
        if sampler is not None and not hasattr(sampler, "__len__"):
            raise JobError(f"sampler: a {type(sampler).__name__} has no __len__, which says how long an epoch is")
        if dtype not in (None, *DTYPES) or not isinstance(memory_format, torch.memory_format):
            raise JobError(f"dtype={dtype}, memory_format={memory_format!r}; dtype is one of {DTYPES}, or None")
        if placement not in PLACEMENTS or decode not in DECODES:
            valid = f"placement: {', '.join(PLACEMENTS)}; decode: {', '.join(DECODES)}"
            raise JobError(f"placement={placement!r}, decode={decode!r}; valid are {valid}")
        self.dataset = dataset
        self.sampler, self.collate_fn, self.batch_transform = sampler, collate_fn, batch_transform
        self.device = _checked(device)
        self.notes: list[str] = []
        self._loader = OrderedLoader(
            as_dataset(dataset, "dataset"),
            batch_size,
            seed=seed if generator is None else generator.initial_seed(),
            shuffle=shuffle,
            drop_last=drop_last,
            collate=collate_fn,
            prefetch=prefetch_factor or 2,
            rank=rank,
            world_size=world_size,
            tolerate=max_bad_samples,
            sampler=sampler,
        )
        self._settings = Settings(
            placement=placement,
            decode=decode,
            dtype=dtype,
            channels_last=memory_format == torch.channels_last,
            device=self.device,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            budget_bytes=budget_bytes,
        )
        if worker_init_fn is not None:
            self.notes.append("worker_init_fn is not called: each sample is seeded by itself")
        self._wanted = compile
        self._compile()
        self._measured = num_workers is not None
        self._loader.workers = num_workers or 0
        self._feed = DeviceFeed(self.device)
        self.epoch = 0
        self._given = 0  # batches of this epoch
        self._resumed = False

    @property
    def batch_size(self) -> int:
        return self._loader.batch_size

    @property
    def drop_last(self) -> bool:
        return self._loader.drop_last

    @property
    def num_workers(self) -> int:
        return self._loader.workers

    @property
    def set_aside(self) -> dict[int, str]:
        """Samples that could not be read, by position in the dataset, and what they raised."""
        return self._loader.set_aside

    def _compile(self) -> None:
        self._transforms = transforms_of(self.dataset)
        if not self._wanted:
            return
        try:
            compile_loader(self._loader, **vars(self._settings))
        except NotApplicable as reason:
            self.notes.append(f"as written: {reason}")
            if self._settings.placement != "auto" or self._settings.decode != "exact":  # asked for by name
                warnings.warn(f"torchspeed.DataLoader: the data stay as written: {reason}", stacklevel=3)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        if transforms_of(self.dataset) != self._transforms:
            self._loader.dataset = as_dataset(self.dataset, "dataset")
            self._compile()
        if not self._measured:
            self._loader.workers, self._measured = self._enough_workers(), True
        if self._given and not self._resumed:
            self.set_epoch(self.epoch + 1)  # the last pass was broken off
        self._resumed = False
        epoch, start = self.epoch, self._given
        for number, batch in enumerate(self._feed.moved(self._loader.epoch(epoch, start)), start):
            self._given = number + 1
            yield self._transformed(self._converted(batch), epoch, number)
        self.set_epoch(epoch + 1)

    def _enough_workers(self) -> int:
        """A thread per core where a batch takes long enough for threads to be worth their handing over."""
        some = np.arange(min(self.batch_size, len(self._loader.dataset)))  # type: ignore[arg-type]
        self._loader.fetch(some)  # what is computed once, and compiled, is no part of a batch
        if not getattr(self._loader.dataset, "threads", False):
            return 0
        seconds = []
        for _ in range(_TRIES):
            started = time.perf_counter()
            self._loader.fetch(some)
            seconds.append(time.perf_counter() - started)
        return usable_cores() if min(seconds) > _HANDING_OVER_SECONDS else 0

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, from its beginning."""
        self.epoch, self._given = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: after the batch that was given last."""
        return {"epoch": self.epoch, "batch": self._given, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there: the next pass begins with the batch after. Raises JobError for another loader's state."""
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                raise JobError(f"the state is of a loader with {name}={state.get(name)}; this one has {name}={mine}")
        self.epoch, self._given = divmod(state["epoch"] * len(self) + state["batch"], len(self))
        self._resumed = True

    def __repr__(self) -> str:
        compiled = self._loader.dataset
        kind = "threads" if getattr(compiled, "threads", False) else "processes"
        workers = f"{self.num_workers} {kind}" if self.num_workers else "loaded in place"
        if not self._measured:
            workers = "workers as the first batch shows"
        head = f"torchspeed.DataLoader: {self._loader.samples} samples, batch_size {self.batch_size}, {workers}"
        lines = [head, *self.notes]
        if isinstance(compiled, Compiled):
            lines.append(render(compiled.rows))
            if compiled.build_seconds is not None and compiled.build_seconds > _SHOWN_SECONDS:
                lines.append(f"what is kept took {compiled.build_seconds:.1f} s to compute")
            if compile_seconds() > _SHOWN_SECONDS:
                lines.append(f"kernels took {compile_seconds():.1f} s to compile or to load, in this process so far")
        return "\n".join(lines)

    def _identity(self) -> dict[str, Any]:
        loader = self._loader
        return {
            "seed": loader.seed,
            "samples": loader.samples,
            "batch_size": loader.batch_size,
            "shuffle": loader.shuffle,
            "drop_last": loader.drop_last,
        }

    def _converted(self, batch: Any) -> Any:
        """Images that were made as they are written, in the dtype and layout that were asked for."""
        wanted = self._settings
        if isinstance(self._loader.dataset, (Lowered, Parts)) or not (wanted.dtype or wanted.channels_last):
            return batch
        layout = torch.channels_last if wanted.channels_last else torch.preserve_format
        return map_tensors(
            batch, lambda t: t.to(wanted.dtype, memory_format=layout) if t.ndim == 4 and t.is_floating_point() else t
        )

    def _transformed(self, batch: Any, epoch: int, number: int) -> Any:
        if self.batch_transform is None:
            return batch
        key = int(sample_keys(self._loader.seed, epoch, np.array([~number]))[0])
        with generators_kept():
            seed_generators(key)
            return self.batch_transform(*batch) if isinstance(batch, (tuple, list)) else self.batch_transform(batch)


def _checked(device: str | torch.device | None) -> torch.device:
    """Raises DeviceError for a device that is not there."""
    try:
        wanted = torch.device(device or "cpu")
    except RuntimeError as error:
        raise DeviceError(f"unknown device {device!r}; cuda, cuda:1, mps and cpu are known") from error
    Machine.detect(wanted.type)
    return wanted


__all__ = ["DataLoader"]
