"""Affine maps of images, nearest or bilinear, as Pillow walks over the pixels or as PyTorch's ``grid_sample`` does.

Where a coordinate falls between two pixels its last bit decides which one is taken, so both are followed in their own
arithmetic. Pillow steps along the rows in fixed point of 16.16 bits when it takes the nearest pixel and the map is
more than a scale, otherwise in doubles; it weights in doubles and cuts off. PyTorch's coordinates are floats between
-1 and 1 that become pixels at the end, and torchvision mixes the filling in by the part of the weights that fell
outside. The work is done a row at a time, in loops over one thing each, so that eight or sixteen pixels go through
all of them but the look-up side by side.

Sources: Pillow, src/libImaging/Geometry.c; PyTorch, ATen/native/cpu/GridSamplerKernel.cpp; torchvision,
transforms/_functional_tensor.py and transforms/v2/functional/_geometry.py.
"""

import numpy as np
from numpy import float32 as f32
from numpy import float64 as f64
from numpy import int32 as i32
from numpy import uint32 as u32
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Pixels = NDArray[np.uint8]  # [B, H, W, C], changed in place
Row = NDArray[np.uint8]  # [W C]
Matrix = NDArray[np.float64]  # [6]: a to f of x' = a x + b y + c, y' = d x + e y + f
Packed = NDArray[np.uint32]  # pixels of up to four channels
Places = NDArray[np.uint32]  # [W], or [4, W] for corners: numbers of pixels in an image; H W is what lies outside
_FIXED = 32768.0  # Pillow's fixed point holds coordinates below this


@kernel
def warp_as_pillow(
    images: Pixels,
    positions: NDArray[np.int64],
    matrices: NDArray[np.float64],
    bilinear: bool,
    fill: NDArray[np.uint8],
) -> None:
    """The images at ``positions`` [K]; ``matrices``: [K, 6], from the corner of the image; ``fill``: [C]."""
    _, height, width, channels = images.shape
    source = np.empty(height * width + 1, np.uint32)
    places, pixels = np.empty((4, width), np.uint32), np.empty(width, np.uint32)
    levels, lines = np.empty((4, channels, width), np.uint8), np.empty((channels, width), np.uint8)
    right, lower = np.empty(width, np.float64), np.empty(width, np.float64)
    for k in range(len(positions)):
        image, matrix = images[positions[k]].reshape(height, width * channels), matrices[k]
        _pack(image, fill, source)
        fixed = (matrix[1] != 0.0 or matrix[3] != 0.0) and _fits(matrix, height, width)
        for y in range(height):
            if bilinear:
                _corners(matrix, y, height, width, places, right, lower)
                for corner in range(4):
                    _take(source, places[corner], pixels)
                    _split(pixels, levels[corner])
                for c in range(channels):
                    _interpolate(levels[:, c], right, lower, lines[c])
                _join(lines, image[y])
            else:
                if fixed:
                    _nearest_fixed(matrix, y, height, width, places[0])
                else:
                    _nearest(matrix, y, height, width, places[0])
                _take(source, places[0], pixels)
                _unpack(pixels, image[y], channels)


@kernel
def warp_as_tensor(
    images: Pixels,
    positions: NDArray[np.int64],
    matrices: NDArray[np.float64],
    bilinear: bool,
    fill: NDArray[np.float32],
    v2: bool,
) -> None:
    """``matrices``: [K, 6], from the middle of the image; ``fill``: [C], or [0] to fade into black."""
    _, height, width, channels = images.shape
    source = np.empty(height * width + 1, np.uint32)
    outside = np.zeros(channels, np.uint8)
    if not bilinear:
        for c in range(len(fill)):
            outside[c] = np.uint8(i32(np.rint(fill[c])))
    at_x, at_y = np.empty(width, np.float32), np.empty(width, np.float32)
    places, pixels = np.empty((4, width), np.uint32), np.empty(width, np.uint32)
    levels, lines = np.empty((4, channels, width), np.uint8), np.empty((channels, width), np.uint8)
    weights, shares = np.empty((4, width), np.float32), np.empty(width, np.float32)
    values = np.empty(width, np.float32)
    for k in range(len(positions)):
        image = images[positions[k]].reshape(height, width * channels)
        _pack(image, outside, source)
        for y in range(height):
            _on_grid(matrices[k, 0:3], y, height, width, f32(width / 2), at_x)
            _on_grid(matrices[k, 3:6], y, height, width, f32(height / 2), at_y)
            if bilinear:
                _weigh(at_x, at_y, height, width, places, weights, shares)
                for corner in range(4):
                    _take(source, places[corner], pixels)
                    _split(pixels, levels[corner])
                for c in range(channels):
                    values[:] = f32(0.0)
                    for corner in range(4):
                        _add_weighted(levels[corner, c], weights[corner], values)
                    if len(fill):
                        _fill_in(values, shares, fill[c], v2)
                    for x in range(width):
                        lines[c, x] = np.uint8(i32(np.rint(values[x])))
                _join(lines, image[y])
            else:
                for x in range(width):
                    places[0, x] = _place(i32(np.rint(at_x[x])), i32(np.rint(at_y[x])), height, width)
                _take(source, places[0], pixels)
                _unpack(pixels, image[y], channels)


@kernel
def _pack(image: Pixels, outside: NDArray[np.uint8], source: Packed) -> None:
    """Each pixel in one word, so that it is looked up at once."""
    channels = len(outside)
    pixels = image.reshape(len(source) - 1, channels)
    for i in range(len(pixels)):
        if channels == 3:
            source[i] = u32(pixels[i, 0]) | u32(pixels[i, 1]) << u32(8) | u32(pixels[i, 2]) << u32(16)
        else:
            source[i] = pixels[i, 0]
    source[-1] = 0
    for c in range(channels):
        source[-1] |= u32(outside[c]) << u32(8 * c)


@kernel
def _place(column: int, row: int, height: int, width: int) -> np.uint32:
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return u32(row * width + column if inside else height * width)


@kernel
def _take(source: Packed, places: Places, out: Packed) -> None:
    for x in range(len(places)):
        out[x] = source[places[x]]


@kernel
def _split(pixels: Packed, levels: NDArray[np.uint8]) -> None:
    """``levels``: [C, W]."""
    for c in range(len(levels)):
        shift, out = u32(8 * c), levels[c]
        for x in range(len(pixels)):
            out[x] = np.uint8(pixels[x] >> shift)


@kernel
def _unpack(pixels: Packed, out: Row, channels: int) -> None:
    for x in range(len(pixels)):
        if channels == 3:
            out[3 * x] = np.uint8(pixels[x])
            out[3 * x + 1] = np.uint8(pixels[x] >> u32(8))
            out[3 * x + 2] = np.uint8(pixels[x] >> u32(16))
        else:
            out[x] = np.uint8(pixels[x])


@kernel
def _join(lines: NDArray[np.uint8], out: Row) -> None:
    """``lines``: [C, W]."""
    if len(lines) == 3:
        red, green, blue = lines[0], lines[1], lines[2]
        for x in range(len(red)):
            out[3 * x] = red[x]
            out[3 * x + 1] = green[x]
            out[3 * x + 2] = blue[x]
    else:
        for x in range(len(out)):
            out[x] = lines[0, x]


@kernel
def _fits(matrix: Matrix, height: int, width: int) -> bool:
    a, b, c, d, e, f = matrix
    fits = True
    for x in (0, width):
        for y in (0, height):
            fits = fits and abs(x * a + y * b + c) < _FIXED and abs(x * d + y * e + f) < _FIXED
    return fits


@kernel
def _nearest_fixed(matrix: Matrix, y: int, height: int, width: int, places: Places) -> None:
    a, b, c, d, e, f = matrix
    step_x, step_y = _fixed(a), _fixed(d)
    at_x = _fixed(c + a * 0.5 + b * 0.5) + y * _fixed(b)
    at_y = _fixed(f + d * 0.5 + e * 0.5) + y * _fixed(e)
    for x in range(width):
        places[x] = _place((at_x + x * step_x) >> 16, (at_y + x * step_y) >> 16, height, width)


@kernel
def _fixed(value: float) -> int:
    return int(np.floor(value * 65536.0 + 0.5))


@kernel
def _nearest(matrix: Matrix, y: int, height: int, width: int, places: Places) -> None:
    a, b, c, d, e, f = matrix
    at_x, at_y = c + b * 0.5 + a * 0.5, f + e * 0.5 + d * 0.5
    for _ in range(y):  # step by step, as the roundings add up
        at_x += b
        at_y += e
    for x in range(width):
        column, row = i32(at_x) if at_x >= 0.0 else i32(-1), i32(at_y) if at_y >= 0.0 else i32(-1)
        places[x] = _place(column, row, height, width)
        at_x += a
        at_y += d


@kernel
def _corners(
    matrix: Matrix,
    y: int,
    height: int,
    width: int,
    places: Places,
    right: NDArray[np.float64],
    lower: NDArray[np.float64],
) -> None:
    """The four pixels around each place, and the shares of those at its right and below it."""
    a, b, c, d, e, f = matrix
    for x in range(width):
        at_x = a * (x + 0.5) + b * (y + 0.5) + c
        at_y = d * (x + 0.5) + e * (y + 0.5) + f
        inside = (at_x >= 0.0) & (at_x < width) & (at_y >= 0.0) & (at_y < height)
        at_x = at_x - 0.5 if inside else 0.0
        at_y = at_y - 0.5 if inside else 0.0
        column, row = i32(np.floor(at_x)), i32(np.floor(at_y))
        right[x], lower[x] = at_x - column, at_y - row
        first, last = max(column, 0), min(column + 1, width - 1)
        above, below = max(row, 0) * width, min(row + 1, height - 1) * width
        outside = height * width
        places[0, x] = u32(above + first if inside else outside)
        places[1, x] = u32(above + last if inside else outside)
        places[2, x] = u32(below + first if inside else outside)
        places[3, x] = u32(below + last if inside else outside)


@kernel
def _interpolate(
    levels: NDArray[np.uint8], right: NDArray[np.float64], lower: NDArray[np.float64], out: NDArray[np.uint8]
) -> None:
    a, b, c, d = levels[0], levels[1], levels[2], levels[3]
    for x in range(len(out)):
        above = f64(a[x]) + (f64(b[x]) - f64(a[x])) * right[x]
        below = f64(c[x]) + (f64(d[x]) - f64(c[x])) * right[x]
        out[x] = np.uint8(i32(above + (below - above) * lower[x]))


@kernel
def _on_grid(
    matrix: NDArray[np.float64], y: int, height: int, width: int, half: np.float32, out: NDArray[np.float32]
) -> None:
    """Coordinates of a row, first from -1 to 1 and then, with one rounding, in pixels."""
    a, b, c = f32(matrix[0]) / half, f32(matrix[1]) / half, f32(matrix[2]) / half
    middle, down = f32((width - 1) / 2), f32(y - (height - 1) / 2)
    for x in range(width):
        place = (f32(x) - middle) * a + down * b + c
        out[x] = f32(f64(place + f32(1.0)) * f64(half) - 0.5)


@kernel
def _weigh(
    at_x: NDArray[np.float32],
    at_y: NDArray[np.float32],
    height: int,
    width: int,
    places: NDArray[np.uint32],
    weights: NDArray[np.float32],
    shares: NDArray[np.float32],
) -> None:
    """The four pixels around each place and their weights; ``shares``: the part of the weights that lies inside."""
    shares[:] = f32(0.0)
    for corner in range(4):
        aside, below, outside = corner & 1, corner >> 1, u32(height * width)
        place, weight = places[corner], weights[corner]
        for x in range(width):
            column, row = np.floor(at_x[x]), np.floor(at_y[x])
            right, lower = at_x[x] - column, at_y[x] - row
            weight[x] = (right if aside else f32(1.0) - right) * (lower if below else f32(1.0) - lower)
            place[x] = _place(i32(column) + aside, i32(row) + below, height, width)
            shares[x] += weight[x] if place[x] != outside else f32(0.0)


@kernel
def _add_weighted(levels: NDArray[np.uint8], weights: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    for x in range(len(out)):  # a fused multiply-add: the product is exact in float64, so that this rounds once
        out[x] = f32(f64(weights[x]) * f64(levels[x]) + f64(out[x]))


@kernel
def _fill_in(values: NDArray[np.float32], shares: NDArray[np.float32], fill: np.float32, v2: bool) -> None:
    for x in range(len(values)):
        if v2:
            values[x] = (values[x] - fill) * shares[x] + fill
        else:
            values[x] = values[x] * shares[x] + (f32(1.0) - shares[x]) * fill
