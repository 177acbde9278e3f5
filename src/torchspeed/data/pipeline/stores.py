"""Where the images lie that a batch begins with, and how they come to lie there.

An image is wanted hundreds of times in a training, and most of what is done to it before the first random step is the
same each time: reading, decoding, resizing. A store holds the images after that work, in memory or in a mapped file.
It was done once, by the user's own code.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from torchspeed.data.cache import RaggedImages
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.pipeline.held import levels_of
from torchspeed.data.pipeline.operation import Step
from torchspeed.data.sources.source import Source

Indices = NDArray[np.int64]
Levels = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
Fetch = tuple[Levels, Indices | None, Sequence[Any] | None]
_TOGETHER = 32  # items that a worker hands over at once


class Store(ABC):
    """``fetch`` gives levels, the rows of them that belong to ``indices`` (None: all, in order), and what else the
    samples hold (None: that is known elsewhere).

    threads: whether several threads may fetch at a time without waiting for each other.
    """

    threads = True

    @abstractmethod
    def fetch(self, indices: Indices) -> Fetch: ...


@final
class ArrayStore(Store):
    """All images in one array, uint8 [M, H, W, C]; image ``i`` is its row ``rows[i]``, or ``i``."""

    def __init__(self, levels: NDArray[np.uint8], rows: Indices | None = None) -> None:
        self.levels, self.rows = levels, rows

    def fetch(self, indices: Indices) -> Fetch:
        rows = indices if self.rows is None else self.rows[indices]
        if self.levels.flags.c_contiguous:
            return self.levels, rows, None
        return np.ascontiguousarray(self.levels[rows]), None, None


@final
class RaggedStore(Store):
    """Images of different sizes in one buffer."""

    def __init__(self, images: RaggedImages) -> None:
        self.images = images

    def fetch(self, indices: Indices) -> Fetch:
        return [self.images[i] for i in indices.tolist()], None, None


@final
class EncodedStore(Store):
    """JPEG, PNG or WebP, decoded each time."""

    def __init__(self, source: Source) -> None:
        assert source.encoded is not None
        assert source.mode is not None
        self.source, self.encoded, self.mode = source, source.encoded, source.mode

    def fetch(self, indices: Indices) -> Fetch:
        return [self.source.image(i) for i in indices.tolist()], None, None


@final
class LoadedStore(Store):
    """By the user's own code, each time."""

    threads = False

    def __init__(self, source: Source) -> None:
        self.source = source

    def fetch(self, indices: Indices) -> Fetch:
        raws = [self.source.raw(i) for i in indices.tolist()]
        return [levels_of(image) for image, _ in raws], None, [rest for _, rest in raws]


def store_of(images: RaggedImages) -> Store:
    """Images that are all of one size become one array; nothing is copied."""
    sizes = images.sizes
    if len(sizes) and (sizes == sizes[0]).all():
        return ArrayStore(images.levels.reshape(len(sizes), *sizes[0].tolist()))
    return RaggedStore(images)


class Appendable(Protocol):
    def append(self, image: NDArray[np.uint8]) -> None: ...


@final
class MemoryImages:
    """Grows by ``append``; ``done`` gives the images. ``estimate_bytes``: of all; pages are taken when touched."""

    def __init__(self, estimate_bytes: int) -> None:
        self._levels = np.empty(int(estimate_bytes * 1.2) + 4096, np.uint8)
        self._used = 0
        self._sizes: list[tuple[int, ...]] = []

    def append(self, image: NDArray[np.uint8]) -> None:
        end = self._used + image.size
        if end > len(self._levels):
            self._levels = np.concatenate([self._levels[: self._used], np.empty(max(end // 2, image.size), np.uint8)])
        self._levels[self._used : end] = image.reshape(-1)
        self._used = end
        self._sizes.append(image.shape)

    def done(self) -> RaggedImages:
        sizes = np.array(self._sizes, np.int64).reshape(-1, 3)
        offsets = np.concatenate([[0], np.cumsum(sizes.prod(1))])
        return RaggedImages({"": self._levels[: self._used], ".sizes": sizes, ".offsets": offsets}, "")


def prepared(source: Source, prefix: Sequence[Step], workers: int) -> Iterator[tuple[NDArray[np.uint8], Any]]:
    """(levels after ``prefix``, rest of the sample) for each item in order, by the user's own code, in processes."""
    loader = OrderedLoader(
        _Items(source, [step.transform for step in prefix]), _TOGETHER, collate=list, workers=workers
    )
    for items in loader.epoch(0):
        yield from items


def decoded(source: Source, threads: int) -> Iterator[NDArray[np.uint8]]:
    """The images of an encoded source, in order, decoded in threads."""
    ahead = 4 * threads
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(source), _TOGETHER * ahead):
            yield from pool.map(source.image, range(start, min(len(source), start + _TOGETHER * ahead)))


class _Items(Dataset[Any]):
    def __init__(self, source: Source, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.source, self.transforms = source, transforms

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], Any]:
        image, rest = self.source.raw(index)
        for transform in self.transforms:
            image = transform(image)
        return np.ascontiguousarray(levels_of(image)), rest
