"""Sharpen and blur: what mixes a pixel with its neighbours.

Sharpness blends the image with one smoothed by the 3 × 3 kernel (1 1 1, 1 5 1, 1 1 1) / 13. The sum over it is an
integer, and no integer over 13 lies half-way between two others, so all rules round it to the same level; they
differ, in the last bit, in the blend. The Gaussian is carried out as two passes of one dimension, rows and then columns
(it is separable), in float32: within a level of PyTorch's convolution with the kernel of two dimensions.

Sources: Pillow, src/libImaging/Filter.c and PIL/ImageFilter.py; torchvision, transforms/_functional_tensor.py and
transforms/v2/functional/_color.py, _misc.py.
"""

import numpy as np
from numpy import float32 as f32
from numpy import float64 as f64
from numpy import int32 as i32
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Row = NDArray[np.uint8]  # [W C]
Pixels = NDArray[np.uint8]  # [B, H, W, C], changed in place
Positions = NDArray[np.int64]  # [K], which images to change; parameters have a row for each of them
_PILLOW, _TENSOR = 0, 1


@kernel
def sharpness(images: Pixels, positions: Positions, factors: NDArray[np.float64], rules: int) -> None:
    """Blend with the smoothed image, whose edge is not smoothed. ``factors``: [K]."""
    _, height, width, channels = images.shape
    length = width * channels
    if height < 3 or width < 3:
        return
    above, here, smoothed = np.empty(length, np.uint8), np.empty(length, np.uint8), np.empty(length, np.uint8)
    columns = np.empty(length, np.float32)
    for k in range(len(positions)):
        image = images[positions[k]].reshape(height, length)
        factor, rest = f32(factors[k]), f32(1.0 - factors[k])
        for y in range(height):
            row = image[y]
            above, here = here, above
            for i in range(length):
                here[i] = row[i]
            for i in range(length):
                smoothed[i] = here[i]
            if 0 < y < height - 1:
                _smooth_row(above, here, image[y + 1], columns, channels, smoothed)
            _blend_rows(here, smoothed, factor, rest, rules, row)


@kernel
def _smooth_row(above: Row, here: Row, below: Row, columns: NDArray[np.float32], channels: int, out: Row) -> None:
    for i in range(len(out)):
        columns[i] = f32(above[i]) + f32(here[i]) + f32(below[i])
    inner = len(out) - 2 * channels
    left, middle, right = columns[:inner], columns[channels : channels + inner], columns[2 * channels :]
    centre, target = here[channels : channels + inner], out[channels : channels + inner]
    for i in range(inner):
        total = left[i] + middle[i] + right[i] + f32(4.0) * f32(centre[i])
        target[i] = np.uint8(i32(total * f32(1.0 / 13.0) + f32(0.5)))


@kernel
def _blend_rows(here: Row, smoothed: Row, factor: np.float32, rest: np.float32, rules: int, out: Row) -> None:
    for i in range(len(out)):
        x, other = f32(here[i]), f32(smoothed[i])
        if rules == _PILLOW:
            value = other + factor * (x - other)
        elif rules == _TENSOR:
            value = factor * x + rest * other
        else:
            value = f32(f64(rest) * f64(other - x) + f64(x))  # a fused multiply-add
        out[i] = np.uint8(i32(min(max(value, f32(0.0)), f32(255.0))))


def gaussian(length: int, sigmas: NDArray[np.float64]) -> NDArray[np.float32]:
    """The weights [K, length] of each of ``sigmas`` [K], in pixels."""
    places = np.arange(length) - (length - 1) / 2
    weights = np.exp(-0.5 * (places / sigmas[:, None]) ** 2)
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised


@kernel
def blur(images: Pixels, positions: Positions, down: NDArray[np.float32], across: NDArray[np.float32]) -> None:
    """Convolve with ``down`` [K, odd] along columns and ``across`` [K, odd] along rows; mirrored at the edges."""
    _, height, width, channels = images.shape
    length = width * channels
    tall, wide = down.shape[1] // 2, across.shape[1] // 2
    source = np.empty((height, length), np.float32)
    padded = np.empty(length + 2 * wide * channels, np.float32)
    total = np.empty(length, np.float32)
    for k in range(len(positions)):
        image = images[positions[k]].reshape(height, length)
        for y in range(height):
            for i in range(length):
                source[y, i] = image[y, i]
        for y in range(height):
            middle = padded[wide * channels : wide * channels + length]
            middle[:] = f32(0.0)
            for j in range(-tall, tall + 1):
                weight, row = down[k, j + tall], source[_mirrored(y + j, height)]
                for i in range(length):
                    middle[i] += weight * row[i]
            for x in range(wide):
                for c in range(channels):
                    padded[x * channels + c] = middle[(wide - x) * channels + c]
                    padded[(wide + width + x) * channels + c] = middle[(width - 2 - x) * channels + c]
            total[:] = f32(0.0)
            for j in range(2 * wide + 1):
                weight, shifted = across[k, j], padded[j * channels : j * channels + length]
                for i in range(length):
                    total[i] += weight * shifted[i]
            for i in range(length):
                image[y, i] = np.uint8(i32(np.rint(total[i])))


@kernel
def _mirrored(place: int, length: int) -> int:
    if place < 0:
        return -place
    return place if place < length else 2 * (length - 1) - place
