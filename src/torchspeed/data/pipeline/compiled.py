"""Datasets that the compiler makes: batches from stored images through kernels, or through the user's own code.

``Lowered``: images from a store, then a program, in machine code. ``Continued``: images from a store, then the rest of
the chain as it is written, for chains with something in them that is not known here. ``Kept``: whole samples, computed
once. All three give batches as PyTorch's ``default_collate`` would, with the draws that the user's code would make.
"""

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from torchspeed.batch import map_tensors
from torchspeed.data.batched import BatchedDataset, Prepared
from torchspeed.data.buffers import Buffers
from torchspeed.data.fetch import generators_kept, seed_generators
from torchspeed.data.kernels.gather import bits
from torchspeed.data.pipeline.device_renderer import DeviceRenderer
from torchspeed.data.pipeline.device_store import DeviceStore
from torchspeed.data.pipeline.held import as_held
from torchspeed.data.pipeline.operation import Step
from torchspeed.data.pipeline.program import Program
from torchspeed.data.pipeline.renderer import Renderer
from torchspeed.data.pipeline.rest import Rest
from torchspeed.data.pipeline.scaled import ScaledDecoding
from torchspeed.data.pipeline.settings import Row, Settings
from torchspeed.data.pipeline.stores import ArrayStore, Store
from torchspeed.data.random import Keys
from torchspeed.data.sources.source import Holds

Indices = NDArray[np.int64]


class Compiled(BatchedDataset, Prepared):
    """``rows``: what is done where, and why. ``build_seconds``: what ``prepare`` took, once it was needed.

    ``origin``: the dataset as written, and the settings that this one was made with.
    """

    def __init__(self, count: int, rows: Sequence[Row]) -> None:
        self.count, self.rows = count, list(rows)
        self.build_seconds: float | None = None
        self.origin: tuple[Dataset[Any], Settings] | None = None
        self._lock = threading.Lock()

    @final
    def __len__(self) -> int:
        return self.count

    @final
    def prepare(self) -> None:
        """Compute what is kept. Done at the first batch, before workers are started."""
        with self._lock:
            if self.build_seconds is None:
                started = time.perf_counter()
                self._build()
                self.build_seconds = time.perf_counter() - started

    @abstractmethod
    def _build(self) -> None: ...


@final
class Lowered(Compiled):
    """``build``: makes the store and what else the samples hold (None where the store says it with each image).

    on_device: whether images and batches are to be in the memory of ``settings.device``. Images that turn out to be of
    different sizes stay in RAM, and the table says so.
    """

    threads = True

    def __init__(
        self,
        count: int,
        rows: Sequence[Row],
        build: Callable[[], tuple[Store, Rest | None]],
        program: Program,
        settings: Settings,
        on_device: bool = False,
    ) -> None:
        super().__init__(count, rows)
        self.build, self.settings = build, settings
        self.renderer = Renderer(program, settings.channels_last, settings.device.type == "cuda")
        self.scaled = ScaledDecoding(program) if settings.decode == "scaled" else None
        self.on_device = self.asynchronous = on_device
        self.threads = not on_device

    def batch(self, indices: Indices, keys: Keys) -> Any:
        self.prepare()
        if self.on_device:
            images, rests = self.device_renderer.images(self.device_store.levels, indices, keys), None
        elif self.scaled is not None:
            images, rests = self.scaled.images(self.renderer, self.store, indices, keys), None
        else:
            levels, rows, rests = self.store.fetch(indices)
            images = self.renderer.images(levels, rows, keys)
        if self.rest is not None:
            return self.rest.batch(indices, images)
        assert rests is not None
        return Rest(rests).batch(np.arange(len(indices)), images)

    def _build(self) -> None:
        store, self.rest = self.build()
        if self.on_device and isinstance(store, ArrayStore):
            self._move(store)
            return
        if self.on_device:
            self.rows.append(
                Row("images of different sizes", "RAM", "the memory of a device is for images of one size")
            )
        self.store, self.threads = store, store.threads
        if not store.threads:  # in worker processes, which may not touch the device
            self.renderer.buffers = Buffers()
        self.on_device = self.asynchronous = False

    def _move(self, store: ArrayStore) -> None:
        device = self.settings.device
        self.device_store = DeviceStore(store, device)
        self.device_renderer = DeviceRenderer(
            self.renderer.program,
            self.settings.channels_last,
            device,
            compiles=device.type == "cuda",
            report=lambda why: self.rows.append(Row("torch.compile", "not used", why)),
        )
        assert self.rest is not None, "what is kept is kept with what belongs to it"
        self.rest.move(device)


@final
class Continued(Compiled):
    """``steps``: the user's own, from the stored image on."""

    threads = False

    def __init__(
        self,
        count: int,
        rows: Sequence[Row],
        build: Callable[[], tuple[Store, Rest | None]],
        steps: Sequence[Step],
        holds: Holds,
    ) -> None:
        super().__init__(count, rows)
        self.steps, self.holds, self.build = steps, holds, build

    def batch(self, indices: Indices, keys: Keys) -> Any:
        self.prepare()
        levels, rows, _ = self.store.fetch(indices)
        places = range(len(indices)) if rows is None else rows.tolist()
        images = []
        with generators_kept():
            for place, key in zip(places, keys.tolist(), strict=True):
                seed_generators(key)
                image = as_held(np.array(levels[place]), self.holds)  # a copy, since the user's code may write to it
                for step in self.steps:
                    image = step.transform(image)
                images.append(image)
        assert self.rest is not None
        return self.rest.batch(indices, default_collate(images))

    def _build(self) -> None:
        self.store, self.rest = self.build()


@final
class Kept(Compiled):
    """``build``: gives all samples as nested tensors, the first dimension of each N."""

    threads = True

    def __init__(self, count: int, rows: Sequence[Row], build: Callable[[], Any]) -> None:
        super().__init__(count, rows)
        self.build = build
        self.buffers = Buffers()

    def batch(self, indices: Indices, keys: Keys) -> Any:
        self.prepare()
        return map_tensors(self.columns, lambda column: self._gather(column, indices))

    def _gather(self, column: Tensor, indices: Indices) -> Tensor:
        source = bits(column)
        out = self.buffers.take((len(indices), *source.shape[1:]), source.dtype)
        np.take(source, indices, axis=0, out=out, mode="clip")  # in range already; "raise" would buffer
        return torch.from_numpy(out).view(column.dtype)

    def _build(self) -> None:
        self.columns = self.build()
