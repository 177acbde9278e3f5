"""Arithmetic that may stand for a table of 256 values.

``ToTensor``, ``Normalize`` and their like turn a level into a value by a few roundings of a straight line. Whoever
knows the line can compute sixteen values at once instead of looking each up. The line is read off the table itself, so
that it does not matter which transforms made it; whether all 256 values come out the same is for the caller to see.

float32: ``(x / 255 - mean) / std`` rounds three times, and each rounding must be met. A division by a number c that is
known is correctly rounded as a product with 1 / c in two parts, ``fma(x, high, x · low)``: Brisebarre, Muller & Raina,
"Accelerating correctly rounded floating-point division when the divisor is known in advance", IEEE Transactions on
Computers 53 (2004). bfloat16 and float16 keep so few digits that ``slope · (x - origin) + offset`` gives the same ones;
the origin is the level nearest zero, about which values are small and their digits fine.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

_LEVELS = np.arange(256.0)


class ToFloat32(NamedTuple):
    """``(x · scale - mean) · factor``; scale and factor in two parts each."""

    scale: np.float32
    scale_low: np.float32
    mean: np.float32
    factor: np.float32
    factor_low: np.float32


class ToBFloat16(NamedTuple):
    """``slope · (x - origin) + offset``, rounded to bfloat16."""

    origin: np.float32
    slope: np.float32
    offset: np.float32


class ToFloat16(NamedTuple):
    """``slope · (x - origin) + offset``, rounded to float16."""

    origin: np.float32
    slope: np.float32
    offset: np.float32


class AsIs(NamedTuple):
    """Levels stay levels."""

    factor: np.uint8 = np.uint8(1)


Form = ToFloat32 | ToBFloat16 | ToFloat16 | AsIs


def candidates(table: Tensor) -> Iterator[tuple[Form, ...]]:
    """Forms that might give ``table`` [C, 256], one for each channel, the likeliest first; none if it is no line."""
    if table.dtype == torch.uint8:
        yield (AsIs(),) * len(table)
    elif table.dtype == torch.float32 and bool(table.isfinite().all()):
        values = table.double().numpy()
        offsets, slopes = np.polynomial.polynomial.polyfit(_LEVELS, values.T, 1)
        away = np.abs(values - offsets[:, None] - slopes[:, None] * _LEVELS).max(axis=1)
        if (away < 1e-5 * np.abs(256 * slopes)).all():
            yield from _normalisations(values, slopes)
    elif table.dtype in (torch.bfloat16, torch.float16) and bool(table.isfinite().all()):
        form = ToBFloat16 if table.dtype == torch.bfloat16 else ToFloat16
        yield tuple(form(*map(np.float32, _line_between(*_rounding_intervals(values)))) for values in table)


def _normalisations(values: Floats, slopes: Floats) -> Iterator[tuple[ToFloat32, ...]]:
    """Lines as ``(x · scale - mean) / std``. ``values``: [C, 256]; ``slopes``: [C].

    The scale is a division by 255, nothing, or a product with 1 / 255. Where a value is smallest the subtraction was
    exact and the value is known best, so the mean is read off there, and then std from all values. Either may still be
    a unit in the last place off.
    """
    for scale, scale_low in (_two_parts(1 / 255), (np.float32(1), np.float32(0)), (np.float32(1 / 255), np.float32(0))):
        scaled = (_LEVELS * (np.float64(scale) + np.float64(scale_low))).astype(np.float32)
        for mean_off, std_off in product((0, -1, 1), repeat=2):
            forms = []
            for channel, slope in zip(values, slopes, strict=True):
                least = np.abs(channel).argmin()
                mean = _moved(np.float32(scaled[least] - channel[least] * np.float64(scale) / slope), mean_off)
                centred = (scaled - mean).astype(np.float64)
                std = _moved(np.float32((centred @ centred) / (centred @ channel)), std_off)
                forms.append(ToFloat32(scale, scale_low, mean, *_two_parts(1 / np.float64(std))))
            yield tuple(forms)


def _two_parts(value: float) -> tuple[np.float32, np.float32]:
    high = np.float32(value)
    return high, np.float32(value - np.float64(high))


def _moved(value: np.float32, units: int) -> np.float32:
    return np.nextafter(value, np.float32(units * np.inf)) if units else value


def _rounding_intervals(values: Tensor) -> tuple[Floats, Floats]:
    """(lower, upper) [256]: the real numbers between them round to each of ``values``, which have 16 bits; those to 0
    are not negative, or they would give -0."""
    infinity = torch.full_like(values, torch.inf)
    below, above = torch.nextafter(values, -infinity).double(), torch.nextafter(values, infinity).double()
    exact = values.double()
    return torch.where(exact == 0, 0.0, (exact + below) / 2).numpy(), ((exact + above) / 2).numpy()


def _line_between(lower: Floats, upper: Floats) -> tuple[float, float, float]:
    """(origin, slope, offset) of the line over the levels that stays furthest inside ``lower`` and ``upper`` [256].

    How far it stays inside, in widths of each interval, is a concave function of slope and offset, so one search by
    thirds within another finds its top.
    """
    width, middle = upper - lower, (lower + upper) / 2
    origin = int(np.abs(middle).argmin())
    steps = _LEVELS - origin

    def room(slope: float, offset: float) -> float:
        line = slope * steps + offset
        return float((np.minimum(line - lower, upper - line) / width).min())

    def best_offset(slope: float) -> float:
        return _top(lambda tried: room(slope, tried), float(lower[origin]), float(upper[origin]))

    near = np.polynomial.polynomial.polyfit(_LEVELS, middle, 1)[1]
    reach = float(width.max()) / 64
    slope = _top(lambda tried: room(tried, best_offset(tried)), near - reach, near + reach)
    return origin, slope, best_offset(slope)


def _top(value: Callable[[float], float], low: float, high: float) -> float:
    """Where a concave function is greatest."""
    for _ in range(30):
        third = (high - low) / 3
        if value(low + third) < value(high - third):
            low += third
        else:
            high -= third
    return (low + high) / 2
