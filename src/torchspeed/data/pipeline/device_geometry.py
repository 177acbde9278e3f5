"""Geometry on a device: maps carried out, resampling, affine maps, conversion, boxes; the pixels of the host's kernels.

The arithmetic is that of ``kernels.resample`` and ``kernels.warp`` (and so of Pillow and PyTorch): integers where they
use integers, single and double precision where they do. A resample is a weighted sum over a number of taps that is the
same for all images, those that a box does not need having weight 0. A product with a matrix of weights would do a
hundred times the work, since all but a few of its entries are 0.
"""

import math

import torch
from torch import Tensor

_SUPPORT = (0.0, 0.5, 1.0, 1.0, 2.0, 3.0)  # of ``FILTERS``: how far each reaches, in pixels of the smaller image
_FRACTION_BITS = 22
_HAMMING = 0.5400000214576721, 0.46000000834465027  # single precision in Pillow


def gather(
    levels: Tensor, index: Tensor | None, rows: Tensor | None, columns: Tensor | None, fills: Tensor | None
) -> Tensor:
    """uint8 [B, h, w, C] of ``levels`` [N, H, W, C]. index: int64 [B]; None: all, in order. rows, columns: int32 maps
    [B or 1, h] and [B or 1, w]; None: as they lie. fills: [K, C]."""
    return _filled(_taken(levels, index, rows, columns), rows, columns, fills)


def convert(
    levels: Tensor,
    index: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    fills: Tensor | None,
    table: Tensor,
    channels_last: bool,
) -> Tensor:
    """[B, C, h, w] of the dtype of ``table`` [C, 256], which lies in memory as is asked for."""
    pixels = _taken(levels, index, rows, columns)
    first = torch.arange(0, table.numel(), 256, dtype=torch.int32, device=table.device)
    if not channels_last:
        pixels, first = pixels.permute(0, 3, 1, 2).contiguous(), first[:, None, None]
    values = table.flatten().index_select(0, (pixels + first).flatten()).view(pixels.shape)
    if fills is not None:
        values = _filled(values, rows, columns, fills.view(table.dtype), channels_last)
    return values.permute(0, 3, 1, 2) if channels_last else values


def erase(values: Tensor, boxes: Tensor, value: Tensor) -> Tensor:
    """``values``: [B, C, H, W]; ``boxes``: int64 [B, 4], top, left, height, width; ``value``: [C], as bits."""
    y = torch.arange(values.shape[2], device=values.device)[:, None]
    x = torch.arange(values.shape[3], device=values.device)
    top, left, height, width = boxes[:, :, None, None, None].unbind(1)
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    return torch.where(inside, value.view(values.dtype)[:, None, None], values)


def resample(
    pixels: Tensor,
    boxes: Tensor,
    columns_first: Tensor | None,
    height: int,
    width: int,
    filter_code: int,
    order: str,
) -> Tensor:
    """A box of each image as Pillow resamples it. boxes: int64 [B, 4]. order: "rows" are weighed first, or "columns",
    or "mixed": that depends on ``columns_first`` [B]."""
    top, left, tall, wide = boxes.unbind(1)
    down = _taps(top, tall, pixels.shape[1], height, filter_code)
    across = _taps(left, wide, pixels.shape[2], width, filter_code)
    if order == "rows":
        return _weighed(_weighed(pixels, 2, *across), 1, *down)
    columns_then_rows = _weighed(_weighed(pixels, 1, *down), 2, *across)
    if order == "columns":
        return columns_then_rows
    assert columns_first is not None
    rows_then_columns = _weighed(_weighed(pixels, 2, *across), 1, *down)
    return torch.where(columns_first[:, None, None, None], columns_then_rows, rows_then_columns)


def warp_nearest(
    pixels: Tensor, fixed: Tensor, straight: Tensor, rows: Tensor, columns: Tensor, fill: Tensor
) -> Tensor:
    """As Pillow. fixed: int64 [B, 6] of 16.16 bits: for columns and for rows a start, a step along x and one along y.
    Where ``straight`` [B]: ``rows`` [B, H] and ``columns`` [B, W] instead. fill: uint8 [C]."""
    y, x = _grid(pixels, torch.int64)
    x0, xx, xy, y0, yx, yy = fixed[:, :, None, None].unbind(1)
    straight = straight[:, None, None]
    at_x = torch.where(straight, columns[:, None, :], (x0 + y * xy + x * xx) >> 16)
    at_y = torch.where(straight, rows[:, :, None], (y0 + y * yy + x * yx) >> 16)
    return _at(pixels, at_y, at_x, fill)


def warp_bilinear(pixels: Tensor, matrices: Tensor, fill: Tensor) -> Tensor:
    """As Pillow, in doubles. ``matrices``: [B, 6], from the corner of the image; ``fill``: uint8 [C]."""
    _, height, width, _ = pixels.shape
    y, x = _grid(pixels, torch.float64)
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    at_x = a * (x + 0.5) + b * (y + 0.5) + c
    at_y = d * (x + 0.5) + e * (y + 0.5) + f
    inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    at_x, at_y = torch.where(inside, at_x - 0.5, 0.0), torch.where(inside, at_y - 0.5, 0.0)
    column, row = at_x.floor(), at_y.floor()
    right, lower = (at_x - column)[..., None], (at_y - row)[..., None]
    first, last = column.long().clamp(min=0), (column.long() + 1).clamp(max=width - 1)
    upper, under = row.long().clamp(min=0), (row.long() + 1).clamp(max=height - 1)
    above, beside = _at(pixels, upper, first).double(), _at(pixels, upper, last).double()
    above = above + (beside - above) * right
    below, beside = _at(pixels, under, first).double(), _at(pixels, under, last).double()
    below = below + (beside - below) * right
    mixed = (above + (below - above) * lower).to(torch.uint8)
    return torch.where(inside[..., None], mixed, fill)


def warp_as_tensor(pixels: Tensor, scaled: Tensor, fill: Tensor, bilinear: bool, fills: bool, v2: bool) -> Tensor:
    """As ``grid_sample``, in floats. ``scaled``: [B, 6], matrices from the middle of the image, divided by its half
    sides; ``fill``: [C], unless it fades into black."""
    _, height, width, _ = pixels.shape
    y, x = _grid(pixels, torch.float32)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    a, b, c, d, e, f = scaled[:, :, None, None].unbind(1)
    at_x = ((x * a + y * b + c + 1.0).double() * (width / 2) - 0.5).float()
    at_y = ((x * d + y * e + f + 1.0).double() * (height / 2) - 0.5).float()
    if not bilinear:
        outside = fill.round().to(torch.uint8)
        return _at(pixels, at_y.round().long(), at_x.round().long(), outside)
    column, row = at_x.floor(), at_y.floor()
    right, lower = at_x - column, at_y - row
    values, share = torch.zeros((), device=pixels.device), torch.zeros((), device=pixels.device)
    black = torch.zeros_like(fill, dtype=torch.uint8)
    for corner in range(4):
        aside, below = corner & 1, corner >> 1
        weight = (right if aside else 1.0 - right) * (lower if below else 1.0 - lower)
        rows, columns = row.long() + below, column.long() + aside
        level = _at(pixels, rows, columns, black)
        # One rounding, as a fused multiply-add: the product is exact in doubles.
        values = (weight[..., None].double() * level.double() + values.double()).float()
        share = share + torch.where(_inside(rows, height) & _inside(columns, width), weight, 0.0)
    if fills:
        share = share[..., None]
        values = (values - fill) * share + fill if v2 else values * share + (1.0 - share) * fill
    return values.round().to(torch.uint8)


def constant(number: float, like: Tensor) -> Tensor:
    """For divisions. PyTorch turns one by a plain number (on a GPU), or of one, into a product with the reciprocal,
    which rounds twice."""
    return torch.full((), number, dtype=like.dtype, device=like.device)


def _taken(levels: Tensor, index: Tensor | None, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    if rows is None or columns is None:
        return levels if index is None else levels.index_select(0, index)
    if index is None:
        index = torch.arange(len(levels), device=levels.device)
    rows, columns = rows.clamp(min=0).long(), columns.clamp(min=0).long()
    return levels[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _filled(
    values: Tensor, rows: Tensor | None, columns: Tensor | None, fills: Tensor | None, channels_last: bool = True
) -> Tensor:
    """``values``: [B, h, w, C] or [B, C, h, w]; where both a row and a column are a filling, the later lies on top."""
    if fills is None or rows is None or columns is None:
        return values
    code = torch.minimum(rows[:, :, None], columns[:, None, :])
    filling = fills[0].expand(1, 1, 1, -1) if len(fills) == 1 else fills[(-1 - code).clamp(min=0).long()]
    covered = (code < 0)[..., None]
    if not channels_last:
        filling, covered = filling.permute(0, 3, 1, 2), covered.permute(0, 3, 1, 2)
    return torch.where(covered, filling, values)


def _at(pixels: Tensor, rows: Tensor, columns: Tensor, outside: Tensor | None = None) -> Tensor:
    """[B, h, w, C]: the pixels at ``rows`` and ``columns`` int64 [B, h, w]; those beyond the image are ``outside``."""
    batch, height, width, _ = pixels.shape
    first = torch.arange(batch, device=pixels.device)[:, None, None]
    taken = pixels[first, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    if outside is None:
        return taken
    inside = _inside(rows, height) & _inside(columns, width)
    return torch.where(inside[..., None], taken, outside)


def _inside(places: Tensor, length: int) -> Tensor:
    return (places >= 0) & (places < length)


def _grid(pixels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The numbers of the rows [H, 1] and of the columns [W]."""
    rows = torch.arange(pixels.shape[1], dtype=dtype, device=pixels.device)
    return rows[:, None], torch.arange(pixels.shape[2], dtype=dtype, device=pixels.device)


def _weighed(pixels: Tensor, axis: int, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted means along ``axis``. places: int64 [B, n, taps]; weights: int32 [B, n, taps], of 2^-22."""
    turned = pixels if axis == 2 else pixels.transpose(1, 2)
    first = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    lines = torch.arange(turned.shape[1], device=pixels.device)[:, None]
    total = torch.full((), 1 << (_FRACTION_BITS - 1), dtype=torch.int32, device=pixels.device)
    for tap in range(places.shape[2]):
        total = total + turned[first, lines, places[:, None, :, tap]] * weights[:, None, :, tap, None]
    weighed = (total >> _FRACTION_BITS).clamp(0, 255).to(torch.uint8)
    return weighed if axis == 2 else weighed.transpose(1, 2)


def _taps(start: Tensor, size_in: Tensor, longest: int, size_out: int, filter_code: int) -> tuple[Tensor, Tensor]:
    """(places, weights) for ``_weighed``: ``size_in`` [B] pixels from ``start`` [B] on become ``size_out``.

    How many taps there are follows from ``longest``, which no box exceeds.
    """
    count = 2 * math.ceil(_SUPPORT[filter_code] * max(longest / size_out, 1.0)) + 2
    start, size_in = start[:, None, None], size_in[:, None, None]
    scale = size_in.double()
    scale = scale / constant(size_out, scale)
    stretch = scale.clamp(min=1.0)
    support = _SUPPORT[filter_code] * stretch
    centre = (torch.arange(size_out, dtype=torch.float64, device=start.device)[:, None] + 0.5) * scale
    first = (centre - support + 0.5).long().clamp(min=0)
    last = torch.minimum((centre + support + 0.5).long(), size_in)
    places = first + torch.arange(count, device=start.device)
    exact = _filter(filter_code, (places - centre + 0.5) * (1.0 / stretch))
    exact = torch.where(places < last, exact, 0.0)
    total = exact[..., :1]
    for tap in range(1, count):
        total = total + exact[..., tap : tap + 1]  # in this order, since that decides about the last bit
    weights = exact / total * (1 << _FRACTION_BITS)
    weights = torch.where(weights < 0, weights - 0.5, weights + 0.5).int()
    return start + torch.minimum(places, size_in - 1), weights


def _filter(code: int, x: Tensor) -> Tensor:
    distance = x.abs()
    if code == 1:
        return ((x > -0.5) & (x <= 0.5)).double()
    if code == 2:
        return (1.0 - distance).clamp(min=0.0)
    if code == 3:
        return torch.where(distance < 1, _sinc(x) * (_HAMMING[0] + _HAMMING[1] * torch.cos(x * math.pi)), 0.0)
    if code == 4:
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
        return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return torch.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / constant(3.0, x)), 0.0)


def _sinc(x: Tensor) -> Tensor:
    turned = x * math.pi
    return torch.where(x == 0, 1.0, torch.sin(turned) / torch.where(x == 0, 1.0, turned))
