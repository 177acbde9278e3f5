"""Resampling of images, the same bits as Pillow's ``crop(box).resize(size, filter)``.

``Resize`` and ``RandomResizedCrop`` of PIL images end in Pillow's C code. To give the same pixels, only faster, this is
its arithmetic: each pixel of the result is a weighted mean of source pixels, along rows and then along columns, each
time rounded to a byte. (Since version 13 Pillow goes along columns first where that leaves it less to do; the pixels
differ, so the version that is installed decides.) The weights come from a filter whose width grows with the reduction,
so that nothing aliases; they are normalised in double precision and rounded to multiples of 2^-22, and sums of products
with bytes then are exact in 32 bits.

What is physical about it: along columns a weighted mean takes whole rows, sixteen values in each register. Along rows
neighbours lie in one register, where they cannot be added. So the image is turned over the diagonal, taken along
columns, and turned back; that costs less than it saves, since a pixel of up to four channels moves as one 32-bit word,
and a band of rows at a time stays in the nearest cache.

Source: Pillow, ``src/libImaging/Resample.c`` and ``Geometry.c``. Filters: Turkowski, "Filters for common resampling
tasks", Graphics Gems (1990); bicubic with a = -1/2 from Keys, IEEE Transactions on ASSP 29 (1981).
"""

import math
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel
from torchspeed.errors import DataError

Levels = NDArray[np.uint8]
Pixels = NDArray[Any]  # uint8, or uint32 of up to four channels
Integers = NDArray[np.int64]

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # a filter's code is its place
_SUPPORT = (0.0, 0.5, 1.0, 1.0, 2.0, 3.0)  # how far each reaches from the centre, in pixels of the smaller image
_NEAREST = 0
_BAND = 128  # rows

_FRACTION_BITS = np.int32(22)
_HALF = np.int32(1 << 21)
_HAMMING = float(np.float32(0.54)), float(np.float32(0.46))  # single precision in Pillow
_DARKEST, _BRIGHTEST = np.int32(0), np.int32(255)
_U = np.uint64  # an index of this type cannot be negative, which spares Numba the test for one that is


class Taps(NamedTuple):
    """For each pixel of the result: the first source pixel, how many, and their weights (int32 [n, most])."""

    first: Integers
    count: Integers
    weights: NDArray[np.int32]


def resample(
    levels: Levels,
    index: Integers,
    boxes: Integers,
    filter_code: int,
    out: Levels,
    *,
    rows_first: bool = False,
) -> None:
    """A box of each image, resampled to the size of ``out`` uint8 [B, h, w, C], 1 to 4 independent channels.

    levels: uint8 [N, H, W, C]; index: int64 [B]; boxes: int64 [B, 4], top, left, height, width, inside the image;
    filter_code: place in ``FILTERS``. ``rows_first``: always along rows first, as PyTorch resizes tensors of bytes
    (with antialias, 1 level from this at most for bilinear, 2 for bicubic); False: as the installed Pillow.

    Raises ``DataError`` for arrays that do not fit and unknown filters, ``IndexError`` for an image that is not there
    and a box beyond its image.
    """
    _check(levels, index, boxes, filter_code, out)
    _, tallest, widest, channels = levels.shape
    _, height, width, _ = out.shape
    pixel = np.uint8 if channels == 1 else np.uint32
    images = np.empty((2, max(tallest, height) * max(widest, width)), pixel)
    bands = np.empty((2, _BAND * max(widest, width)), pixel)
    sums = np.empty(max(_BAND, widest, width) * 4, np.int32)
    down, across = _room(tallest, height, filter_code), _room(widest, width, filter_code)
    columns_may_come_first = not rows_first and pillow_chooses()
    _resample(levels, index, boxes, filter_code, columns_may_come_first, down, across, images, bands, sums, out)


def resample_one(image: Levels, box: Integers, filter_code: int, out: Levels, *, rows_first: bool = False) -> None:
    """``resample`` for one ``image`` uint8 [H, W, C] and one ``box`` [4], to ``out`` uint8 [h, w, C]."""
    resample(image[None], np.zeros(1, np.int64), box[None], filter_code, out[None], rows_first=rows_first)


@cache
def pillow_chooses() -> bool:
    """Whether it takes columns first where that is less work."""
    try:
        return int(version("pillow").split(".")[0]) >= 13
    except PackageNotFoundError:
        return True


def _room(size_in: int, size_out: int, filter_code: int) -> Taps:
    """Empty taps for up to ``size_in`` source pixels, an even number for each pixel of the result."""
    most = 2 * math.ceil(_SUPPORT[filter_code] * max(size_in / size_out, 1.0)) + 2
    return Taps(np.empty(size_out, np.int64), np.empty(size_out, np.int64), np.empty((size_out, most), np.int32))


def _check(levels: Levels, index: Integers, boxes: Integers, filter_code: int, out: Levels) -> None:
    if not 0 <= filter_code < len(FILTERS):
        raise DataError(f"filter {filter_code}: there are {', '.join(f'{i} {n}' for i, n in enumerate(FILTERS))}")
    fits = (
        levels.dtype == out.dtype == np.uint8
        and levels.ndim == out.ndim == 4
        and levels.flags.c_contiguous
        and out.flags.c_contiguous
        and 1 <= levels.shape[3] == out.shape[3] <= 4
        and index.shape == out.shape[:1]
        and boxes.shape == (len(index), 4)
        and boxes.dtype == np.int64
        and 0 not in out.shape[1:3]
    )
    if not fits:
        raise DataError(
            f"levels {levels.dtype} {levels.shape}, index {index.shape}, boxes {boxes.dtype} {boxes.shape}, out "
            f"{out.dtype} {out.shape}: they must be contiguous uint8 [N, H, W, C], [B], int64 [B, 4], uint8 [B, h, w, "
            "C], with 1 to 4 channels"
        )


@kernel
def _resample(
    levels: Levels,
    index: Integers,
    boxes: Integers,
    filter_code: int,
    columns_may_come_first: bool,
    down: Taps,
    across: Taps,
    images: Pixels,
    bands: Pixels,
    sums: NDArray[np.int32],
    out: Levels,
) -> None:
    """``images``, ``bands`` and ``sums`` are scratch, enough for a whole image."""
    _, height, width, _ = out.shape
    known_height, known_width = 0, 0
    for b in range(len(out)):
        n, top, left, box_height, box_width = index[b], boxes[b, 0], boxes[b, 1], boxes[b, 2], boxes[b, 3]
        if n < 0 or n >= len(levels):
            raise IndexError("an index beyond the images")
        if min(top, left) < 0 or top + box_height > levels.shape[1] or left + box_width > levels.shape[2]:
            raise IndexError("a box beyond its image")
        if min(box_height, box_width) < 1:
            raise IndexError("a box without pixels")
        if box_height != known_height:
            _set_taps(down, box_height, filter_code)
            known_height = box_height
        if box_width != known_width:
            _set_taps(across, box_width, filter_code)
            known_width = box_width
        shrinks = box_height - height
        columns_first = columns_may_come_first and shrinks > 0 and shrinks > 2 * (box_width - width)
        image, used = images[0, : box_height * box_width].reshape((box_height, box_width)), 0
        _pack(levels, n, top, left, image)
        if filter_code == _NEAREST:
            picked = images[1, : height * width].reshape((height, width))
            _pick(image, down.first, across.first, picked)
            image = picked
            box_height, box_width = height, width
        for along_columns in (columns_first, not columns_first):
            if along_columns and box_height != height:
                used = 1 - used
                weighed = images[used, : height * image.shape[1]].reshape((height, image.shape[1]))
                _weigh(image.view(np.uint8), down, sums, weighed.view(np.uint8))
                image = weighed
            elif not along_columns and box_width != width:
                used = 1 - used
                weighed = images[used, : len(image) * width].reshape((len(image), width))
                _weigh_rows(image, across, bands, sums, weighed)
                image = weighed
        _unpack(image, out[b])


@kernel
def _set_taps(taps: Taps, size_in: int, filter_code: int) -> None:
    """The weights that bring ``size_in`` pixels to as many as ``taps`` are for."""
    size_out, most = taps.weights.shape
    scale = size_in / size_out
    if filter_code == _NEAREST:
        place = 0.5 * scale
        for i in range(size_out):
            taps.first[i] = int(place)
            place += scale  # added up with its rounding, as in Pillow
        return
    stretch = max(scale, 1.0)
    support = _SUPPORT[filter_code] * stretch
    exact = np.empty(most)
    for i in range(size_out):
        centre = (i + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        count = min(int(centre + support + 0.5), size_in) - first
        total = 0.0
        for k in range(count):
            exact[k] = _filter(filter_code, (k + first - centre + 0.5) * (1.0 / stretch))
            total += exact[k]
        taps.first[i], taps.count[i] = first, count
        taps.weights[i] = 0
        for k in range(count):
            weight = exact[k] / total * (1 << _FRACTION_BITS)
            taps.weights[i, k] = int(weight - 0.5 if weight < 0 else weight + 0.5)


@kernel
def _filter(code: int, x: float) -> float:
    distance = abs(x)
    if code == 1:
        return 1.0 if -0.5 < x <= 0.5 else 0.0
    if code == 2:
        return max(1.0 - distance, 0.0)
    if code == 3:
        return _sinc(x) * (_HAMMING[0] + _HAMMING[1] * math.cos(x * math.pi)) if distance < 1 else 0.0
    if code == 4:
        if distance < 1:
            return (1.5 * distance - 2.5) * distance * distance + 1
        return (((distance - 5) * distance + 8) * distance - 4) * -0.5 if distance < 2 else 0.0
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


@kernel
def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x != 0 else 1.0


@kernel
def _weigh(source: Levels, taps: Taps, sums: NDArray[np.int32], out: Levels) -> None:
    """Rows of ``out`` [n, length] as weighted means of those of ``source`` [m, length]; two at a time, because each
    pass over ``sums`` costs as much as the products."""
    length, last = source.shape[1], len(source) - 1
    for i in range(len(out)):
        first, target = taps.first[i], out[i]
        row, next_row = source[first], source[min(first + 1, last)]
        weight, next_weight = taps.weights[i, 0], taps.weights[i, 1]
        for x in range(length):
            sums[x] = _HALF + weight * np.int32(row[x]) + next_weight * np.int32(next_row[x])
        for k in range(2, taps.count[i], 2):
            row, next_row = source[first + k], source[min(first + k + 1, last)]
            weight, next_weight = taps.weights[i, k], taps.weights[i, k + 1]
            for x in range(length):
                sums[x] += weight * np.int32(row[x]) + next_weight * np.int32(next_row[x])
        for x in range(length):
            target[x] = min(max(sums[x] >> _FRACTION_BITS, _DARKEST), _BRIGHTEST)


@kernel
def _pick(source: Pixels, rows: Integers, columns: Integers, out: Pixels) -> None:
    """``out`` [h, w]: the pixels of ``source`` at ``rows`` [h] and ``columns`` [w]."""
    for i in range(len(out)):
        line, target = source[rows[i]], out[i]
        for j in range(len(target)):
            target[j] = line[_U(columns[j])]


@kernel
def _weigh_rows(source: Pixels, taps: Taps, bands: Pixels, sums: NDArray[np.int32], out: Pixels) -> None:
    """``_weigh`` for pixels along the rows: ``source`` [h, m] to ``out`` [h, n]."""
    columns, columns_out = source.shape[1], out.shape[1]
    for y in range(0, len(source), _BAND):
        rows = min(_BAND, len(source) - y)
        turned = bands[0, : columns * rows].reshape((columns, rows))
        weighed = bands[1, : columns_out * rows].reshape((columns_out, rows))
        _turn(source[y : y + rows], turned)
        _weigh(turned.view(np.uint8), taps, sums, weighed.view(np.uint8))
        _turn(weighed, out[y : y + rows])


@kernel
def _turn(source: Pixels, out: Pixels) -> None:
    """``out`` [w, h] is ``source`` [h, w] over the diagonal."""
    height, width = source.shape
    whole = height // 4 * 4
    for y in range(0, whole, 4):
        first, second, third, fourth = source[y], source[y + 1], source[y + 2], source[y + 3]
        for x in range(width):
            out[x, _U(y)], out[x, _U(y + 1)] = first[x], second[x]
            out[x, _U(y + 2)], out[x, _U(y + 3)] = third[x], fourth[x]
    for y in range(whole, height):
        for x in range(width):
            out[x, y] = source[y, x]


@kernel
def _pack(levels: Levels, n: int, top: int, left: int, out: Pixels) -> None:
    """The box at (top, left) of image n, one word for each pixel of ``out`` [h, w]."""
    channels, size = levels.shape[3], out.itemsize
    height, width = out.shape
    for y in range(height):
        source, target = levels[n, top + y, left : left + width].reshape(-1), out[y].view(np.uint8)
        if channels == 3:
            for x in range(width):
                target[_U(4 * x)], target[_U(4 * x + 1)] = source[_U(3 * x)], source[_U(3 * x + 1)]
                target[_U(4 * x + 2)], target[_U(4 * x + 3)] = source[_U(3 * x + 2)], np.uint8(0)
        elif channels == size:
            for k in range(width * size):
                target[k] = source[k]
        else:
            for x in range(width):
                for c in range(channels):
                    target[_U(size * x + c)] = source[_U(channels * x + c)]


@kernel
def _unpack(pixels: Pixels, out: Levels) -> None:
    """``pixels`` [h, w] to ``out`` uint8 [h, w, C]."""
    channels, size = out.shape[2], pixels.itemsize
    words, target = pixels.reshape(-1), out.reshape(-1)
    source = words.view(np.uint8)
    if channels == 3:
        for k in range(len(words)):
            word = np.uint32(words[k])
            target[_U(3 * k)], target[_U(3 * k + 1)] = word, word >> np.uint32(8)
            target[_U(3 * k + 2)] = word >> np.uint32(16)
    elif channels == size:
        for k in range(len(source)):
            target[k] = source[k]
    else:
        for k in range(len(words)):
            for c in range(channels):
                target[_U(channels * k + c)] = source[_U(size * k + c)]
