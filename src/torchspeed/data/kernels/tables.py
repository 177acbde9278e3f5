"""Replace each level of an image by another: posterize, solarize, invert, stretch, equalise.

The first three are a mask of bits and a threshold, and need no table. What becomes of a level in the other two is a
table of 256 entries per image and channel; the tables are NumPy expressions over all images at once, and what touches
pixels is two kernels, one that counts levels and one that looks them up.

Sources: Pillow, PIL/ImageOps.py; torchvision, transforms/_functional_tensor.py and transforms/v2/functional/_color.py.
"""

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Tables = NDArray[np.uint8]  # [K, C, 256]
_LEVELS = np.arange(256)
_PILLOW, _TENSOR = 0, 1
_COUNTERS = 4  # next to each other, so that equal neighbours do not wait for each other's sum


def counted(images: NDArray[np.uint8], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each level occurs. ``images``: [B, H, W, C]; returns [K, C, 256], for those at ``positions`` [K]."""
    counts = np.empty((len(positions), images.shape[3], 256), np.int64)
    _count(images, positions, counts)
    return counts


@kernel
def _count(images: NDArray[np.uint8], positions: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    _, height, width, channels = images.shape
    pixels = height * width
    counts = np.empty((channels, 256, _COUNTERS), np.int32)
    for k in range(len(positions)):
        image = images[positions[k]].reshape(pixels, channels)
        counts[:] = 0
        for i in range(pixels):
            for c in range(channels):
                counts[c, image[i, c], i & (_COUNTERS - 1)] += 1
        for c in range(channels):
            for level in range(256):
                total = 0
                for j in range(_COUNTERS):
                    total += counts[c, level, j]
                out[k, c, level] = total


@kernel
def look_up(images: NDArray[np.uint8], positions: NDArray[np.int64], tables: Tables) -> None:
    """``images``: [B, H, W, C], those at ``positions`` [K] are changed."""
    channels = images.shape[3]
    for k in range(len(positions)):
        flat = images[positions[k]].reshape(images[0].size)
        table = tables[k].reshape(channels * 256)
        if channels == 3:
            for i in range(len(flat) // 3):
                flat[3 * i] = table[flat[3 * i]]
                flat[3 * i + 1] = table[256 + flat[3 * i + 1]]
                flat[3 * i + 2] = table[512 + flat[3 * i + 2]]
        else:
            for i in range(len(flat)):
                flat[i] = table[flat[i]]


@kernel
def mask_and_invert(
    images: NDArray[np.uint8], positions: NDArray[np.int64], masks: NDArray[np.uint8], starts: NDArray[np.int16]
) -> None:
    """Keep the bits in ``masks`` [K] and invert the levels from ``starts`` [K] on; from 256 on there are none."""
    for k in range(len(positions)):
        flat = images[positions[k]].reshape(images[0].size)
        mask, start = masks[k], starts[k]
        for i in range(len(flat)):
            level = flat[i] & mask
            flat[i] = np.uint8(~level if np.int16(level) >= start else level)


def stretching(counts: NDArray[np.int64], rules: int) -> Tables:
    """The lowest level that occurs becomes 0, the highest 255. ``counts``: [K, C, 256]."""
    occurs = counts > 0
    lowest = occurs.argmax(axis=2)[:, :, None]
    highest = 255 - occurs[:, :, ::-1].argmax(axis=2)[:, :, None]
    range_ = np.maximum(highest - lowest, 1)
    if rules == _PILLOW:
        scale = 255.0 / range_
        stretched = _LEVELS * scale + -lowest * scale
    elif rules == _TENSOR:
        stretched = (_LEVELS - lowest).astype(np.float32) * (
            np.float32(1) / range_.astype(np.float32) * np.float32(255)
        )
    else:
        stretched = (_LEVELS - lowest).astype(np.float32) / (range_.astype(np.float32) * np.float32(1 / 255))
    return np.where(highest > lowest, stretched.clip(0, 255), _LEVELS).astype(np.uint8)


def equalizing(counts: NDArray[np.int64]) -> Tables:
    """Levels become equally frequent, as far as they can. ``counts``: [K, C, 256]."""
    highest = 255 - (counts > 0)[:, :, ::-1].argmax(axis=2)[:, :, None]
    step = (counts.sum(axis=2, keepdims=True) - np.take_along_axis(counts, highest, axis=2)) // 255
    below = counts.cumsum(axis=2) - counts
    equalized = (step // 2 + below) // np.maximum(step, 1)
    return np.where(step > 0, equalized.clip(0, 255), _LEVELS).astype(np.uint8)
