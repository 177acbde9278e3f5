"""Images of different sizes in one buffer: no object and no file per image.

Image ``i`` is ``levels[offsets[i]:offsets[i + 1]]`` in the shape ``sizes[i]``:

    NAME.npy          uint8 [total]    the images end to end
    NAME.offsets.npy  int64 [N + 1]
    NAME.sizes.npy    int64 [N, 3]     height, width, channels
"""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.cache.writer import Writer
from torchspeed.errors import DataError


@final
class RaggedWriter:
    """Adds images to an entry of the cache, in their order; ``close`` once, after the last."""

    def __init__(self, writer: Writer, name: str) -> None:
        self._writer, self._name = writer, name
        self._levels = writer.rows(name, np.uint8)
        self._sizes: list[tuple[int, ...]] = []

    def append(self, image: NDArray[np.uint8]) -> None:
        """``image``: uint8 [H, W, C]. Raises ValueError for other shapes and dtypes, StorageError."""
        if image.ndim != 3:
            raise ValueError(f"{self._name}: found an image {list(image.shape)}; [H, W, C] belongs there")
        self._levels.append(image.reshape(-1))
        self._sizes.append(image.shape)

    def close(self) -> None:
        sizes = self._writer.array(f"{self._name}.sizes", np.int64, (len(self._sizes), 3))
        offsets = self._writer.array(f"{self._name}.offsets", np.int64, (len(self._sizes) + 1,))
        sizes[:] = np.array(self._sizes, np.int64).reshape(-1, 3)
        np.cumsum(sizes.prod(1), out=offsets[1:])


@final
class RaggedImages:
    """N images of different sizes, by index: views, nothing is copied.

    ``levels``: uint8 [total]; ``offsets``: int64 [N + 1]; ``sizes``: int64 [N, 3]. Raises DataError where they do not
    fit together: a kernel that follows an offset beyond the buffer would read whatever lies there.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], name: str) -> None:
        self.levels, self.offsets, self.sizes = arrays[name], arrays[f"{name}.offsets"], arrays[f"{name}.sizes"]
        expected = np.concatenate([[0], np.cumsum(self.sizes.prod(1))])
        fits = self.sizes.min(initial=0) >= 0 and np.array_equal(self.offsets, expected)
        if not fits or expected[-1] != len(self.levels):
            raise DataError(f"{name}: offsets, sizes and {len(self.levels):,} bytes of images do not fit together")

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, C]."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.levels[start:end].reshape(self.sizes[index])
