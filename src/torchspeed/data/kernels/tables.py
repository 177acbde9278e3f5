"""What looks each level up in a table: count the levels of images, and replace them."""

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

_COUNTERS = 4  # next to each other, so that equal neighbours do not wait for each other's sum


@kernel
def count_levels(images: NDArray[np.uint8], positions: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """How often each level occurs. ``images``: [B, H, W, C]; ``out``: [K, C, 256], for those at ``positions`` [K]."""
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
def look_up(images: NDArray[np.uint8], positions: NDArray[np.int64], tables: NDArray[np.uint8]) -> None:
    """Replace the levels of the images at ``positions``. ``tables``: [K, C, 256], or [K, 1, 256] for all channels."""
    _, height, width, channels = images.shape
    for k in range(len(positions)):
        flat = images[positions[k]].reshape(height * width * channels)
        table = tables[k].reshape(tables.shape[1] * 256)
        if len(table) == 256:
            for i in range(len(flat)):
                flat[i] = table[flat[i]]
        else:
            for i in range(height * width):
                flat[3 * i] = table[flat[3 * i]]
                flat[3 * i + 1] = table[256 + flat[3 * i + 1]]
                flat[3 * i + 2] = table[512 + flat[3 * i + 2]]
