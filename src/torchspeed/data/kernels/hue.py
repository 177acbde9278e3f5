"""Turn the hue of images, as Pillow's HSV images of 8 bits do it or as torchvision does it on tensors, in floats.

The two differ by several levels, since Pillow keeps hue and saturation in 8 bits on the way, so they are two kernels.
Both are without branches and work on a few hundred pixels at a time, their channels apart, so that eight or sixteen
pixels go through the divisions side by side.

Sources: A. R. Smith, "Color gamut transform pairs", SIGGRAPH 1978; Pillow, src/libImaging/Convert.c (``rgb2hsv_row``,
``hsv2rgb``), in whose mixture of float and double this is written, since that decides about the bits; torchvision,
transforms/_functional_tensor.py and transforms/v2/functional/_color.py.
"""

import numpy as np
from numpy import float32 as f32
from numpy import float64 as f64
from numpy import int32 as i32
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Channel = NDArray[np.uint8]  # of some pixels
_PILLOW, _TENSOR_V2 = 0, 2
_BLOCK = 512  # pixels that go through all steps before the next ones, in the first-level cache


@kernel
def hue(images: NDArray[np.uint8], positions: NDArray[np.int64], shifts: NDArray[np.float64], rules: int) -> None:
    """``images``: [B, H, W, C], those at ``positions`` [K] are changed, if C is 3. ``shifts``: [K], in turns."""
    if images.shape[3] == 1:
        return
    pixels = images.shape[1] * images.shape[2]
    channels = np.empty((3, _BLOCK), np.uint8)
    for k in range(len(positions)):
        flat = images[positions[k]].reshape(pixels * 3)
        for start in range(0, pixels, _BLOCK):
            block = flat[3 * start : 3 * (start + _BLOCK)]
            size = len(block) // 3
            red, green, blue = channels[0, :size], channels[1, :size], channels[2, :size]
            for i in range(size):
                red[i] = block[3 * i]
                green[i] = block[3 * i + 1]
                blue[i] = block[3 * i + 2]
            if rules == _PILLOW:
                _turn_levels(red, green, blue, i32(shifts[k] * 255))
            else:
                _turn_floats(red, green, blue, f32(shifts[k]), rules == _TENSOR_V2)
            for i in range(size):
                block[3 * i] = red[i]
                block[3 * i + 1] = green[i]
                block[3 * i + 2] = blue[i]


@kernel
def _turn_levels(red: Channel, green: Channel, blue: Channel, shift: np.int32) -> None:
    for i in range(len(red)):
        r, g, b = i32(red[i]), i32(green[i]), i32(blue[i])
        high, low = max(r, max(g, b)), min(r, min(g, b))
        range_ = f32(max(high - low, i32(1)))
        from_r, from_g, from_b = f32(high - r) / range_, f32(high - g) / range_, f32(high - b) / range_
        if r == high:
            sixths = from_b - from_g
        elif g == high:
            sixths = f32(2.0 + f64(from_r) - f64(from_b))
        else:
            sixths = f32(4.0 + f64(from_g) - f64(from_r))
        turns = f64(sixths) / 6.0 + 1.0
        turns = f64(f32(turns - 1.0 if turns >= 1.0 else turns))
        hue_ = i32(0) if high == low else i32(turns * 255.0)
        hue_ = (hue_ + shift) & i32(255)
        saturation = i32(f64(f32(high - low) / f32(max(high, i32(1)))) * 255.0)

        # And back.
        scaled = f64(hue_) * 6.0 / 255.0
        sector = i32(scaled)
        inside, part = f32(scaled - f64(sector)), f32(f64(saturation) / 255.0)
        value = f64(high)
        bottom = i32(value * (1.0 - f64(part)) + 0.5)
        falling = i32(value * (1.0 - f64(part * inside)) + 0.5)
        rising = i32(value * (1.0 - f64(part) * (1.0 - f64(inside))) + 0.5)
        sector = i32(0) if sector == 6 else sector
        red[i] = _choose(sector, high, falling, bottom, bottom, rising, high)
        green[i] = _choose(sector, rising, high, high, falling, bottom, bottom)
        blue[i] = _choose(sector, bottom, bottom, rising, high, high, falling)


@kernel
def _turn_floats(red: Channel, green: Channel, blue: Channel, shift: np.float32, v2: bool) -> None:
    zero, one, six = f32(0.0), f32(1.0), f32(6.0)
    for i in range(len(red)):
        if v2:
            scale = f32(1.0 / 255.0)
            r, g, b = f32(red[i]) * scale, f32(green[i]) * scale, f32(blue[i]) * scale
        else:
            r, g, b = f32(red[i]) / f32(255.0), f32(green[i]) / f32(255.0), f32(blue[i]) / f32(255.0)
        high, low = max(r, max(g, b)), min(r, min(g, b))
        range_ = one if high == low else high - low
        from_r, from_g, from_b = (high - r) / range_, (high - g) / range_, (high - b) / range_
        if r == high:
            sixths = from_b - from_g
        elif g == high:
            sixths = f32(2.0) + from_r - from_b
        else:
            sixths = f32(4.0) + from_g - from_r
        turns = (sixths * f32(1.0 / 6.0) if v2 else sixths / six) + one
        turns = (turns - one if turns >= one else turns) + shift
        turns -= f32(i32(turns + one)) - one  # a floor, since the sum is in [-1, 3)
        saturation = (high - low) / (one if high == low else high)

        # And back.
        scaled = turns * six
        sector = i32(scaled)
        inside = scaled - f32(sector)
        sector = i32(0) if sector == 6 else sector
        less = one - saturation
        bottom = high * less
        falling = high * (one - saturation * inside)
        rising = high * (saturation * inside + less) if v2 else high * (one - saturation * (one - inside))
        bottom = min(max(bottom, zero), one)
        falling, rising = min(max(falling, zero), one), min(max(rising, zero), one)
        red[i] = _choose_level(sector, high, falling, bottom, bottom, rising, high)
        green[i] = _choose_level(sector, rising, high, high, falling, bottom, bottom)
        blue[i] = _choose_level(sector, bottom, bottom, rising, high, high, falling)


@kernel
def _choose(sector: np.int32, a: np.int32, b: np.int32, c: np.int32, d: np.int32, e: np.int32, f: np.int32) -> np.uint8:
    """What a channel is in the sector of the colour wheel, 0 to 5."""
    first = a if sector == 0 else b if sector == 1 else c
    second = d if sector == 3 else e if sector == 4 else f
    return np.uint8(first if sector < 3 else second)


@kernel
def _choose_level(
    sector: np.int32, a: np.float32, b: np.float32, c: np.float32, d: np.float32, e: np.float32, f: np.float32
) -> np.uint8:
    first = a if sector == 0 else b if sector == 1 else c
    second = d if sector == 3 else e if sector == 4 else f
    return np.uint8(i32((first if sector < 3 else second) * f32(255.0 + 1.0 - 1e-3)))
