"""Brightness, contrast, saturation and grey, in one pass over the images, by whichever rules the user's code rounds.

The four blend the image with something: black, its mean grey, itself in grey. Pillow and torchvision's functions for
tensors mean the same by that and compute it differently: the luminance is rounded or cut off, the mean is rounded or
not, the blend is ``d + a (x - d)`` or ``a x + (1 - a) d``, in float32, and what is lost last decides about a level.
Over a chain of four such operations levels would add up, so each set of rules is followed to the last bit.

Sources: Pillow, src/libImaging/Blend.c, src/libImaging/Convert.c and PIL/ImageEnhance.py; torchvision,
transforms/_functional_tensor.py and transforms/v2/functional/_color.py. PyTorch adds ``alpha * b`` to ``a`` with one
rounding where the processor can.
"""

import numpy as np
from numpy import float32 as f32
from numpy import float64 as f64
from numpy import int32 as i32
from numpy import uint32 as u32
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Pixels = NDArray[np.uint8]  # [B, H, W, C], changed in place
Positions = NDArray[np.int64]  # [K], which images to change; parameters have a row for each of them
PILLOW, TENSOR, TENSOR_V2 = range(3)
_BLOCK = 3 * 1024  # levels that go through all steps before the next ones, in the first-level cache


@kernel
def brightness(images: Pixels, positions: Positions, factors: NDArray[np.float64]) -> None:
    """Blend with black, which all rules round alike. ``factors``: [K]."""
    for k in range(len(positions)):
        _blend_with_level(images[positions[k]].reshape(images[0].size), f32(0.0), factors[k], PILLOW)


@kernel
def contrast(images: Pixels, positions: Positions, factors: NDArray[np.float64], rules: int) -> None:
    """Blend with the mean grey of the image."""
    channels = images.shape[3]
    grey = np.empty(_BLOCK, np.uint8)
    for k in range(len(positions)):
        flat = images[positions[k]].reshape(images[0].size)
        total = 0
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            _to_grey(block, grey, channels, rules)
            for i in range(len(block)):
                total += i32(grey[i])
        mean = total / len(flat)  # every grey was counted once per channel
        level = f32(int(mean + 0.5)) if rules == PILLOW else f32(mean)
        _blend_with_level(flat, level, factors[k], rules)


@kernel
def saturation(images: Pixels, positions: Positions, factors: NDArray[np.float64], rules: int) -> None:
    """Blend with the image in grey. Nothing happens to images of one channel."""
    if images.shape[3] == 1:
        return
    grey = np.empty(_BLOCK, np.uint8)
    for k in range(len(positions)):
        flat = images[positions[k]].reshape(images[0].size)
        factor, rest = f32(factors[k]), f32(1.0 - factors[k])
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            _to_grey(block, grey, 3, rules)
            for i in range(len(block)):
                block[i] = _blended(f32(block[i]), f32(grey[i]), factor, rest, rules)


@kernel
def grayscale(images: Pixels, positions: Positions, rules: int) -> None:
    """Every channel becomes the luminance."""
    grey = np.empty(_BLOCK, np.uint8)
    for b in positions:
        flat = images[b].reshape(images[0].size)
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            _to_grey(block, grey, images.shape[3], rules)
            for i in range(len(block)):
                block[i] = grey[i]


@kernel
def _blend_with_level(flat: NDArray[np.uint8], level: np.float32, ratio: float, rules: int) -> None:
    factor, rest = f32(ratio), f32(1.0 - ratio)
    for i in range(len(flat)):
        flat[i] = _blended(f32(flat[i]), level, factor, rest, rules)


@kernel
def _blended(x: np.float32, other: np.float32, factor: np.float32, rest: np.float32, rules: int) -> np.uint8:
    if rules == PILLOW:
        value = other + factor * (x - other)
    elif rules == TENSOR:
        value = factor * x + rest * other
    else:
        value = f32(f64(rest) * f64(other) + f64(factor * x))  # a fused multiply-add, since float64 holds the product
    return np.uint8(i32(min(max(value, f32(0.0)), f32(255.0))))


@kernel
def _to_grey(levels: NDArray[np.uint8], grey: NDArray[np.uint8], channels: int, rules: int) -> None:
    """The luminance of each pixel, once per channel."""
    if channels == 1:
        for i in range(len(levels)):
            grey[i] = levels[i]
    elif rules == PILLOW:
        for i in range(len(levels) // 3):
            r, g, b = u32(levels[3 * i]), u32(levels[3 * i + 1]), u32(levels[3 * i + 2])
            level = np.uint8((r * u32(19595) + g * u32(38470) + b * u32(7471) + u32(0x8000)) >> u32(16))
            grey[3 * i] = level
            grey[3 * i + 1] = level
            grey[3 * i + 2] = level
    else:
        for i in range(len(levels) // 3):
            r, g, b = f32(levels[3 * i]), f32(levels[3 * i + 1]), f32(levels[3 * i + 2])
            if rules == TENSOR:
                value = f32(0.2989) * r + f32(0.587) * g + f32(0.114) * b
            else:
                value = f32(f64(f32(0.587)) * f64(g) + f64(f32(0.2989) * r))
                value = f32(f64(f32(0.114)) * f64(b) + f64(value))
            level = np.uint8(i32(value))
            grey[3 * i] = level
            grey[3 * i + 1] = level
            grey[3 * i + 2] = level
