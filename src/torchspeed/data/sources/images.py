"""Raw images as levels, and the array in memory that they are views of, if there is one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from torchspeed.data.decode import Levels, Mode
from torchspeed.data.sources.columns import Column, Rows
from torchspeed.data.sources.identity import array_identity
from torchspeed.data.sources.source import Holds, Opaque
from torchspeed.data.sources.tree import is_pil

_MODES: dict[int, Mode] = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Look:
    """What was seen of one raw image; ``digest`` stands for its levels, as images may be large.

    ``file``: where a PIL image says that it was opened from.
    """

    index: int
    holds: Holds
    mode: Mode | None
    digest: str
    file: str | None = None


def look(raw: Any, index: int) -> Look:
    """Raises ``Opaque`` for what no kernel and no decoder makes."""
    levels = as_levels(raw)
    if levels is not None:
        file = getattr(raw, "filename", None)
        return Look(index, _holds(raw), _MODES[levels.shape[2]], digest(levels), file or None)
    if is_pil(raw):
        return Look(index, "pil", None, xxhash.xxh3_128_hexdigest(raw.tobytes()))
    if isinstance(raw, Tensor) and raw.is_floating_point() and raw.dim() == 3:
        return Look(index, "float tensor", None, "")
    shape = f" of {raw.dtype} {list(raw.shape)}" if isinstance(raw, (Tensor, np.ndarray)) else ""
    raise Opaque(
        f"the transform is given {_article(type(raw).__name__)}{shape} for sample {index}; "
        "a PIL image, a tensor [C, H, W] or a uint8 array [H, W, C] can be followed"
    )


def as_levels(raw: Any) -> Levels | None:
    """uint8 [H, W, C] of a PIL image of mode L or RGB, of a uint8 tensor [C, H, W] or of an array; else None."""
    if is_pil(raw):
        levels = np.asarray(raw) if raw.mode in ("L", "RGB") else None
    elif isinstance(raw, Tensor):
        chw = raw.dim() == 3 and raw.dtype == torch.uint8 and raw.device.type == "cpu"
        levels = raw.detach().as_subclass(Tensor).permute(1, 2, 0).numpy() if chw else None
    else:
        levels = raw if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 else None
    if levels is not None and levels.ndim == 2:
        levels = levels[:, :, None]
    return levels if levels is not None and levels.ndim == 3 and levels.shape[2] in _MODES else None


def digest(levels: Levels) -> str:
    return f"{levels.shape} {xxhash.xxh3_128_hexdigest(np.ascontiguousarray(levels).data)}"


@dataclass(frozen=True)
class ImageArray:
    """``levels``: uint8 [M, H, W, C], a view of ``column.values``; raw image ``i`` is ``levels[rows[i]]``."""

    column: Column
    levels: Levels
    rows: Rows | None

    def __getitem__(self, index: int) -> Levels:
        levels: Levels = self.levels[index if self.rows is None else self.rows[index]]
        return levels

    def identity(self) -> str:
        rows = "" if self.rows is None else array_identity(self.rows)
        return array_identity(self.levels) + rows


def common_mode(looks: list[Look]) -> Mode | None:
    """The mode of all images that were looked at, None if they differ in it."""
    modes = {seen.mode for seen in looks}
    return modes.pop() if len(modes) == 1 else None


def find_array(
    columns: Iterable[Column], looks: list[Look], more: Callable[[int], Look], count: int
) -> ImageArray | None:
    """The array that holds just the images that were looked at; of several ``more`` looks tell, where they differ.

    ``count``: of all samples.
    """
    arrays = [
        array
        for column in columns
        for array in (ImageArray(column, levels, column.rows) for levels in _views(column))
        if all(digest(array[seen.index]) == seen.digest for seen in looks)
    ]
    while arrays:
        index = next(
            (i for other in arrays[1:] if (i := _first_that_differs(arrays[0], other, count)) is not None), None
        )
        if index is None:
            return arrays[0]
        seen = more(index)
        arrays = [array for array in arrays if digest(array[index]) == seen.digest]
    return None


def _first_that_differs(a: ImageArray, b: ImageArray, count: int) -> int | None:
    """The first sample whose image is another in each, None for two arrays of the same images."""
    one_array = a.levels.__array_interface__ == b.levels.__array_interface__
    if one_array and (a.rows is b.rows or not (a.rows is None or b.rows is None or (a.rows != b.rows).any())):
        return None  # by two names
    return next((index for index in range(count) if not np.array_equal(a[index], b[index])), None)


def _views(column: Column) -> Iterator[Levels]:
    """The ways in which an array may be read as images, without copying it."""
    array = column.values
    if isinstance(array, Tensor):
        plain = array.dtype == torch.uint8 and array.device.type == "cpu" and array.layout == torch.strided
        array = array.detach().numpy() if plain else None
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        return
    if array.ndim == 3:
        yield array[..., None]
    if array.ndim == 4 and array.shape[3] in _MODES:
        yield array
    if array.ndim == 4 and array.shape[1] in _MODES:
        yield np.moveaxis(array, 1, 3)


def _holds(raw: Any) -> Holds:
    return "pil" if is_pil(raw) else "uint8 tensor" if isinstance(raw, Tensor) else "uint8 array"


def _article(name: str) -> str:
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
