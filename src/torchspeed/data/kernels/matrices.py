"""The matrices of rotations and affine maps, to the last bit as torchvision and Pillow compute them.

A map is applied backwards: for each pixel of the result the matrix (a b c, d e f) says where it comes from. Two ways of
writing the same inverse differ in the sixteenth digit, and for maps that hit pixels exactly (a shift, a quarter turn)
that digit decides which pixel is taken. So they are written here as there, and in machine code, for one cosine in
Python takes as long as a row of pixels.

Sources: torchvision, transforms/functional.py and transforms/v2/functional/_geometry.py
(``_get_inverse_affine_matrix``); Pillow, PIL/Image.py (``Image.rotate``).
"""

import math

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Column = NDArray[np.float64]  # [B]
_RADIANS = math.pi / 180.0
_DIGITS = 1e15
_SPLIT = 2.0**27 + 1.0
_HIGH = _SPLIT * _DIGITS - (_SPLIT * _DIGITS - _DIGITS)
_LOW = _DIGITS - _HIGH


@kernel
def affine_matrices(
    degrees: Column,
    shifts: NDArray[np.float64],
    scales: Column,
    shears: NDArray[np.float64],
    centres: NDArray[np.float64],
    v2: bool,
    out: NDArray[np.float64],
) -> None:
    """``degrees``, ``scales``: [B]; ``shifts``, ``shears`` (degrees), ``centres``: [B, 2], x and y; ``out``: [B, 6]."""
    for i in range(len(out)):
        turn, shear_x, shear_y = degrees[i] * _RADIANS, shears[i, 0] * _RADIANS, shears[i, 1] * _RADIANS
        scale, centre_x, centre_y = scales[i], centres[i, 0], centres[i, 1]
        a = math.cos(turn - shear_y) / math.cos(shear_y)
        c = math.sin(turn - shear_y) / math.cos(shear_y)
        if v2:
            b = -(a * math.tan(shear_x) + math.sin(turn))
            d = math.cos(turn) - c * math.tan(shear_x)
        else:
            b = -math.cos(turn - shear_y) * math.tan(shear_x) / math.cos(shear_y) - math.sin(turn)
            d = -math.sin(turn - shear_y) * math.tan(shear_x) / math.cos(shear_y) + math.cos(turn)
        xx, xy, yx, yy = d / scale, -b / scale, -c / scale, a / scale
        back_x, back_y = centre_x + shifts[i, 0], centre_y + shifts[i, 1]
        if v2:
            x0 = centre_x - xx * back_x - xy * back_y
            y0 = centre_y - yx * back_x - yy * back_y
        else:
            x0 = xx * -back_x + xy * -back_y + centre_x
            y0 = yx * -back_x + yy * -back_y + centre_y
        out[i, 0], out[i, 1], out[i, 2] = xx, xy, x0
        out[i, 3], out[i, 4], out[i, 5] = yx, yy, y0


@kernel
def rotation_matrices(degrees: Column, centres: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Pillow's ``Image.rotate``, counter-clockwise. ``degrees``: [B]; ``centres``: [B, 2]; ``out``: [B, 6]."""
    for i in range(len(out)):
        turn = -((degrees[i] % 360.0) * _RADIANS)
        centre_x, centre_y = centres[i, 0], centres[i, 1]
        cosine, sine, minus_sine = _rounded(math.cos(turn)), _rounded(math.sin(turn)), _rounded(-math.sin(turn))
        out[i, 0], out[i, 1], out[i, 3], out[i, 4] = cosine, sine, minus_sine, cosine
        out[i, 2] = cosine * -centre_x + sine * -centre_y + centre_x
        out[i, 5] = minus_sine * -centre_x + cosine * -centre_y + centre_y


@kernel
def _rounded(value: float) -> float:
    """Python's ``round(value, 15)`` for values up to 1: the nearest decimal number, and the float nearest to that.

    A float near 1e15 is a multiple of an eighth, so what the product lost (T. J. Dekker, Numer. Math. 18, 1971) has a
    say in which integer is the nearest.
    """
    product = value * _DIGITS
    high = _SPLIT * value - (_SPLIT * value - value)
    low = value - high
    lost = ((high * _HIGH - product) + high * _LOW + low * _HIGH) + low * _LOW
    whole = np.rint(product)
    rest = (product - whole) + lost
    if rest > 0.5:
        whole += 1.0
    elif rest < -0.5:
        whole -= 1.0
    return float(whole / _DIGITS)
