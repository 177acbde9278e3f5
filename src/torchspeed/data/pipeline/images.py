"""``Images``: a batch of images on its way, and the instructions that carry transforms out on it.

Crop, pad and flip move pixels without changing them, so none of them touches a pixel here: each composes two small
integer maps, from every row and column of the result to a row and column of the source. The maps are carried out by
whatever comes next, in one pass: a resize or a colour operation, or else the conversion to floats. A negative entry
-(1 + k) stands for filling k, which is kept as a value and not as a level, since a pad after Normalize fills in
normalised values.

``HostImages`` carries the other instructions out in machine code, ``DeviceImages`` in PyTorch code on a device. Some
are told by whose ``Rules`` to round: Pillow's, or those of torchvision's two sets of functions for tensors.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.maps import crop_map, flip_map

Mask = NDArray[np.bool_]  # [B]
Map = NDArray[np.int32]  # [B, length], or [1, length] while it is the same for all images
PadMode = Literal["constant", "edge", "reflect", "symmetric"]


@dataclass(frozen=True)
class Fill:
    """``values``: one per channel. ``stage``: how many pointwise steps of the chain came before; 0 are levels."""

    values: tuple[float, ...]
    stage: int = 0

    def over(self, channels: int) -> tuple[float, ...]:
        """A value for each of ``channels``."""
        return self.values * channels if len(self.values) == 1 else self.values


BLACK = Fill((0.0,))
Rules = Literal["pillow", "tensor", "tensor v2"]
RULES: tuple[Rules, ...] = ("pillow", "tensor", "tensor v2")


class Images(ABC):
    """B images of C channels. ``heights``, ``widths``: int64 [B], as the next instruction finds them."""

    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    channels: int

    def __init__(self, heights: NDArray[np.int64], widths: NDArray[np.int64], channels: int) -> None:
        self.heights, self.widths, self.channels = heights, widths, channels
        self.rows: Map | None = None  # None: as they lie
        self.columns: Map | None = None
        self.fills: list[Fill] = []
        self.mask: Mask | None = None

    @final
    def crop(
        self,
        top: NDArray[np.int64],
        left: NDArray[np.int64],
        height: int,
        width: int,
        outside: Fill = BLACK,
    ) -> None:
        """Cut ``height`` × ``width`` pixels out at (top, left) [B] each; what lies outside becomes ``outside``."""
        assert self.mask is None, "a crop is for all images, or their sizes would differ"
        code = self._code(outside)
        self.rows = crop_map(self._rows(), self.heights, top, code, height)
        self.columns = crop_map(self._columns(), self.widths, left, code, width)
        self.heights, self.widths = np.full_like(self.heights, height), np.full_like(self.widths, width)

    @final
    def pad(self, left: int, top: int, right: int, bottom: int, mode: PadMode, fill: Fill = BLACK) -> None:
        """Grow images of one size at their edges, as ``np.pad`` does; ``fill`` is for mode "constant"."""
        assert self.mask is None, "padding is for all images, or their sizes would differ"
        code = self._code(fill)
        if self.rows is None and self.columns is None:
            self.rows = _padded_identity(int(self.heights[0]), top, bottom, mode, code)
            self.columns = _padded_identity(int(self.widths[0]), left, right, mode, code)
        else:
            self.rows = _padded(self._rows(), top, bottom, mode, code)
            self.columns = _padded(self._columns(), left, right, mode, code)
        self.heights, self.widths = self.heights + top + bottom, self.widths + left + right

    @final
    def flip_horizontally(self, where: Mask) -> None:
        """Mirror the images where ``where`` [B] is true, left to right."""
        self.columns = flip_map(self._columns(), self.widths, self._masked(where))

    @final
    def flip_vertically(self, where: Mask) -> None:
        self.rows = flip_map(self._rows(), self.heights, self._masked(where))

    @final
    def only(self, where: Mask) -> "_Only":
        """``with images.only(where):`` the instructions act on the images where ``where`` [B] is true."""
        return _Only(self, self._masked(where))

    @abstractmethod
    def resize(
        self,
        boxes: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        filter: str,
        rules: Rules,
    ) -> None:
        """Resample a box of each image to ``heights`` × ``widths`` [B], with antialiasing.

        ``boxes``: int64 [B, 4], top, left, height, width, inside the image. ``filter``: one of ``FILTERS``.
        """

    @abstractmethod
    def warp(self, matrices: NDArray[np.float64], filter: str, fill: Fill | None, rules: Rules) -> None:
        """Affine map, size kept: pixel (x, y) is taken from (a x + b y + c, d x + e y + f) of the centres of pixels.

        ``matrices``: [B, 6], a to f, counted from the corner of the image for Pillow and from its middle for tensors.
        ``filter``: "nearest" or "bilinear". What lies outside becomes ``fill``; None, for tensors: fades into black.
        """

    @abstractmethod
    def brightness(self, factors: NDArray[np.float64]) -> None:
        """Blend with black. ``factors`` [B]: 1 changes nothing; so for contrast, saturation and sharpness."""

    @abstractmethod
    def contrast(self, factors: NDArray[np.float64], rules: Rules) -> None:
        """Blend with the mean grey of the image."""

    @abstractmethod
    def saturation(self, factors: NDArray[np.float64], rules: Rules) -> None:
        """Blend with the image in grey."""

    @abstractmethod
    def hue(self, shifts: NDArray[np.float64], rules: Rules) -> None:
        """Turn the hue by ``shifts`` [B], in turns, from -0.5 to 0.5."""

    @abstractmethod
    def grayscale(self, channels: int, rules: Rules) -> None:
        """The luminance (ITU-R 601-2), ``channels`` times; another number than before is for all images."""

    @abstractmethod
    def sharpness(self, factors: NDArray[np.float64], rules: Rules) -> None:
        """Blend with the smoothed image."""

    @abstractmethod
    def blur(self, height: int, width: int, sigmas: NDArray[np.float64]) -> None:
        """Gaussian kernel of ``height`` × ``width`` (odd), mirrored at the edges. ``sigmas``: [B], in pixels."""

    @abstractmethod
    def posterize(self, bits: NDArray[np.int64]) -> None:
        """Keep the highest ``bits`` [B] of each level."""

    @abstractmethod
    def solarize(self, thresholds: NDArray[np.float64]) -> None:
        """Invert the levels at or above ``thresholds`` [B]."""

    @abstractmethod
    def autocontrast(self, rules: Rules) -> None:
        """Stretch each channel to all levels."""

    @abstractmethod
    def equalize(self) -> None:
        """Make the levels of each channel equally frequent."""

    @abstractmethod
    def invert(self) -> None: ...

    def _masked(self, where: Mask) -> Mask:
        return where if self.mask is None else where & self.mask

    def _rows(self) -> Map:
        return _identity(int(self.heights.max())) if self.rows is None else self.rows

    def _columns(self) -> Map:
        return _identity(int(self.widths.max())) if self.columns is None else self.columns

    def _code(self, fill: Fill) -> int:
        """The later a filling, the greater its number: where two meet, it lies on top."""
        if not self.fills or self.fills[-1] != fill:
            self.fills.append(fill)
        return -len(self.fills)


class _Only:
    def __init__(self, images: Images, mask: Mask) -> None:
        self.images, self.mask = images, mask

    def __enter__(self) -> None:
        self.before, self.images.mask = self.images.mask, self.mask

    def __exit__(self, *exception: object) -> None:
        self.images.mask = self.before


@functools.lru_cache(maxsize=256)
def _identity(length: int) -> Map:
    return np.arange(length, dtype=np.int32)[None]


@functools.lru_cache(maxsize=256)
def _padded_identity(length: int, before: int, after: int, mode: PadMode, code: int) -> Map:
    """Most paddings are of images as they lie, and the same in every batch."""
    return _padded(_identity(length), before, after, mode, code)


def _padded(map_: Map, before: int, after: int, mode: PadMode, code: int) -> Map:
    """Negative ``before`` and ``after`` cut off, as they do in torchvision."""
    length = map_.shape[1]
    map_ = map_[:, max(0, -before) : length - max(0, -after)]
    widths = ((0, 0), (max(0, before), max(0, after)))
    if mode == "constant":
        return np.pad(map_, widths, mode="constant", constant_values=code)
    return np.pad(map_, widths, mode=mode)
