"""Affine maps of images, nearest or bilinear, as Pillow walks over the pixels or as PyTorch's ``grid_sample`` does.

Where a coordinate falls between two pixels its last bit decides which one is taken, so both are followed in their own
arithmetic. Pillow steps along the rows in fixed point of 16.16 bits when it takes the nearest pixel and the map is more
than a scale, otherwise in doubles; it weights in doubles and cuts off. PyTorch's coordinates are floats between -1 and 1
that become pixels at the end, and torchvision mixes the filling in by the part of the weights that fell outside.

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
Places = NDArray[np.uint32]  # [W], numbers of pixels in an image; H W is the pixel that lies outside
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
    source = np.empty((height * width + 1) * channels, np.uint8)
    places, right, down = np.empty(width, np.uint32), np.empty(width, np.uint32), np.empty(width, np.uint32)
    share_right, share_down = np.empty(width, np.float64), np.empty(width, np.float64)
    for k in range(len(positions)):
        image, matrix = images[positions[k]].reshape(height, width * channels), matrices[k]
        _copy(image, fill, source)
        fixed = (matrix[1] != 0.0 or matrix[3] != 0.0) and _fits(matrix, height, width)
        for y in range(height):
            if bilinear:
                _corners(matrix, y, height, width, places, right, down, share_right, share_down)
                _mix(source, channels, places, right, down, share_right, share_down, image[y])
            else:
                if fixed:
                    _nearest_fixed(matrix, y, height, width, places)
                else:
                    _nearest(matrix, y, height, width, places)
                _take(source, channels, places, image[y])


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
    source = np.empty((height * width + 1) * channels, np.uint8)
    outside = np.zeros(channels, np.uint8)
    if not bilinear:
        for c in range(len(fill)):
            outside[c] = np.uint8(i32(np.rint(fill[c])))
    at_x, at_y = np.empty(width, np.float32), np.empty(width, np.float32)
    places, weights = np.empty((4, width), np.uint32), np.empty((4, width), np.float32)
    for k in range(len(positions)):
        image = images[positions[k]].reshape(height, width * channels)
        _copy(image, outside, source)
        for y in range(height):
            _on_grid(matrices[k, 0:3], y, height, width, f32(width / 2), at_x)
            _on_grid(matrices[k, 3:6], y, height, width, f32(height / 2), at_y)
            if bilinear:
                _weigh(at_x, at_y, height, width, places, weights)
                _sum_weighted(source, channels, places, weights, fill, v2, image[y])
            else:
                for x in range(width):
                    column, row = i32(np.rint(at_x[x])), i32(np.rint(at_y[x]))
                    places[0, x] = _place(column, row, height, width)
                _take(source, channels, places[0], image[y])


@kernel
def _copy(image: Pixels, outside: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
    height, length = image.shape
    for y in range(height):
        row = source[y * length : (y + 1) * length]
        for i in range(length):
            row[i] = image[y, i]
    source[height * length :] = outside


@kernel
def _place(column: int, row: int, height: int, width: int) -> np.uint32:
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return u32(row * width + column if inside else height * width)


@kernel
def _take(source: NDArray[np.uint8], channels: int, places: Places, out: Row) -> None:
    if channels == 3:
        for x in range(len(places)):
            first = places[x] * u32(3)
            out[3 * x] = source[first]
            out[3 * x + 1] = source[first + u32(1)]
            out[3 * x + 2] = source[first + u32(2)]
    else:
        for x in range(len(places)):
            out[x] = source[places[x]]


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
    right: Places,
    down: Places,
    share_right: NDArray[np.float64],
    share_down: NDArray[np.float64],
) -> None:
    """The upper left one of the four pixels around each place, and how far it is to those at the right and below."""
    a, b, c, d, e, f = matrix
    for x in range(width):
        at_x = a * (x + 0.5) + b * (y + 0.5) + c
        at_y = d * (x + 0.5) + e * (y + 0.5) + f
        inside = (at_x >= 0.0) & (at_x < width) & (at_y >= 0.0) & (at_y < height)
        at_x = at_x - 0.5 if inside else 0.0
        at_y = at_y - 0.5 if inside else 0.0
        column, row = i32(at_x + 1.0) - i32(1), i32(at_y + 1.0) - i32(1)
        share_right[x], share_down[x] = at_x - column, at_y - row
        left, upper = max(column, 0), max(row, 0)
        places[x] = u32(upper * width + left if inside else height * width)
        right[x] = u32(min(column + 1, width - 1) - left if inside else 0)
        down[x] = u32((min(row + 1, height - 1) - upper) * width if inside else 0)


@kernel
def _mix(
    source: NDArray[np.uint8],
    channels: int,
    places: Places,
    right: Places,
    down: Places,
    share_right: NDArray[np.float64],
    share_down: NDArray[np.float64],
    out: Row,
) -> None:
    step = u32(channels)
    for c in range(channels):
        for x in range(len(places)):
            here = places[x] * step + u32(c)
            below = here + down[x] * step
            aside = right[x] * step
            upper = f64(source[here])
            upper += (f64(source[here + aside]) - upper) * share_right[x]
            lower = f64(source[below])
            lower += (f64(source[below + aside]) - lower) * share_right[x]
            out[x * channels + c] = np.uint8(i32(upper + (lower - upper) * share_down[x]))


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
) -> None:
    """The four pixels around each place, and their shares."""
    for corner in range(4):
        aside, below = corner & 1, corner >> 1
        place, weight = places[corner], weights[corner]
        for x in range(width):
            column, row = np.floor(at_x[x]), np.floor(at_y[x])
            right, lower = at_x[x] - column, at_y[x] - row
            weight[x] = (right if aside else f32(1.0) - right) * (lower if below else f32(1.0) - lower)
            place[x] = _place(i32(column) + aside, i32(row) + below, height, width)


@kernel
def _sum_weighted(
    source: NDArray[np.uint8],
    channels: int,
    places: NDArray[np.uint32],
    weights: NDArray[np.float32],
    fill: NDArray[np.float32],
    v2: bool,
    out: Row,
) -> None:
    length = len(source)
    step, outside = u32(channels), u32(length // channels - 1)
    for c in range(channels):
        for x in range(places.shape[1]):
            value, share = f32(0.0), f32(0.0)
            for corner in range(4):
                place, weight = places[corner, x], weights[corner, x]
                # The product is exact in float64, so that this rounds once, as a fused multiply-add does.
                value = f32(f64(source[place * step + u32(c)]) * f64(weight) + f64(value))
                share += f32(0.0) if place == outside else weight
            if len(fill):
                if v2:
                    value = (value - fill[c]) * share + fill[c]
                else:
                    value = value * share + (f32(1.0) - share) * fill[c]
            out[x * channels + c] = np.uint8(i32(np.rint(value)))
