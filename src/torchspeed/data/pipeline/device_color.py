"""Colour on a device: the levels that ``kernels.color``, ``hue``, ``tables`` and ``smooth`` give on the host.

Functions of uint8 [B, H, W, C] that give the like. Each rounds where its counterpart on the host rounds, so that the
levels are the same; where that mixes single and double precision, so does this. Brightness, contrast, autocontrast and
equalisation are a table of 256 levels for each image, computed from a few numbers, and one look-up per pixel.
"""

import torch
from torch import Tensor

from torchspeed.data.pipeline.device_geometry import constant


def brightness(pixels: Tensor, shares: Tensor) -> Tensor:
    """Blend with black. ``shares``: float32 [B, 2], of the image and of what it is blended with."""
    return _look_up(pixels, _blended(_levels(pixels), torch.zeros((), device=pixels.device), shares, "pillow"))


def contrast(pixels: Tensor, shares: Tensor, rules: str) -> Tensor:
    """Blend with the mean grey."""
    grey = _grey(pixels, rules)
    total = grey.sum((1, 2), dtype=torch.int64)[:, None, None].double()
    exact = total / constant(grey.shape[1] * grey.shape[2], total)
    mean = (exact + 0.5).floor().float() if rules == "pillow" else exact.float()
    return _look_up(pixels, _blended(_levels(pixels), mean, shares, rules))


def saturation(pixels: Tensor, shares: Tensor, rules: str) -> Tensor:
    """Blend with the image in grey."""
    return _blended(pixels.float(), _grey(pixels, rules)[..., None].float(), shares[:, None], rules)


def grayscale(pixels: Tensor, channels: int, rules: str) -> Tensor:
    """The luminance, ``channels`` times."""
    return _grey(pixels, rules)[..., None].repeat(1, 1, 1, channels)


def hue(pixels: Tensor, shifts: Tensor, rules: str) -> Tensor:
    """``shifts``: [B], int32 of 255 to a turn by Pillow's rules, float32 turns by others."""
    return (_turned_levels if rules == "pillow" else _turned_floats)(pixels, shifts[:, None, None], rules)


def sharpness(pixels: Tensor, shares: Tensor, rules: str) -> Tensor:
    """Blend with the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13, but for its edge."""
    levels = pixels.int()
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * levels[:, 1:-1, 1:-1]
    inner = torch.div(2 * total + 13, 26, rounding_mode="floor")
    middle = torch.cat([levels[:, 1:-1, :1], inner, levels[:, 1:-1, -1:]], dim=2)
    smoothed = torch.cat([levels[:, :1], middle, levels[:, -1:]], dim=1)
    if rules == "tensor v2":
        rest = shares[:, 1, None, None, None]
        return _bytes((rest.double() * (smoothed - levels).double() + levels.double()).float())
    return _blended(levels.float(), smoothed.float(), shares[:, None], rules)


def blur(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Convolve with ``down`` [B, odd] along columns and ``across`` [B, odd] along rows; mirrored at the edges."""
    values = pixels.float()
    for axis, weights in ((1, down), (2, across)):
        reach, length = weights.shape[1] // 2, values.shape[axis]
        place = torch.arange(-reach, length + reach, device=pixels.device).abs()
        mirrored = values.index_select(axis, torch.where(place < length, place, 2 * (length - 1) - place))
        values = torch.zeros((), device=pixels.device)
        for tap in range(weights.shape[1]):
            values = values + weights[:, tap, None, None, None] * mirrored.narrow(axis, tap, length)
    return values.round().to(torch.uint8)


def posterize(pixels: Tensor, masks: Tensor) -> Tensor:
    """Keep the bits of ``masks`` uint8 [B]."""
    return pixels & masks[:, None, None, None]


def solarize(pixels: Tensor, thresholds: Tensor) -> Tensor:
    """Invert from ``thresholds`` int32 [B] on."""
    return torch.where(pixels >= thresholds[:, None, None, None], 255 - pixels, pixels)


def invert(pixels: Tensor) -> Tensor:
    return 255 - pixels


def autocontrast(pixels: Tensor, rules: str) -> Tensor:
    """The lowest level of each channel becomes 0, the highest 255."""
    lowest, highest = pixels.amin((1, 2))[..., None].int(), pixels.amax((1, 2))[..., None].int()
    levels = torch.arange(256, dtype=torch.int32, device=pixels.device)
    range_ = (highest - lowest).clamp(min=1)
    if rules == "pillow":
        scale = constant(255.0, range_.double()) / range_
        stretched = levels * scale + -lowest * scale
    elif rules == "tensor":
        stretched = (levels - lowest).float() * (1.0 / range_.float() * 255.0)
    else:
        stretched = (levels - lowest).float() / (range_.float() * _FLOAT_255TH)
    return _look_up(pixels, torch.where(highest > lowest, stretched.clamp(0, 255).int(), levels).to(torch.uint8))


def equalize(pixels: Tensor) -> Tensor:
    batch, height, width, channels = pixels.shape
    first = 256 * torch.arange(batch * channels, device=pixels.device).view(batch, 1, 1, channels)
    counts = torch.zeros(batch * channels * 256, dtype=torch.int64, device=pixels.device)
    places = (pixels + first).flatten()
    counts = counts.scatter_add(0, places, torch.ones_like(places)).view(batch, channels, 256)
    highest = pixels.amax((1, 2))[..., None].long()
    step = torch.div(height * width - counts.gather(2, highest), 255, rounding_mode="floor")
    below = counts.cumsum(2) - counts
    equal = torch.div(torch.div(step, 2, rounding_mode="floor") + below, step.clamp(min=1), rounding_mode="floor")
    levels = torch.arange(256, device=pixels.device)
    return _look_up(pixels, torch.where(step > 0, equal.clamp(0, 255), levels).to(torch.uint8))


_FLOAT_255TH = 0.003921568859368563  # 1 / 255 in single precision


def _levels(pixels: Tensor) -> Tensor:
    """Every level there is, [1, 1, 256]."""
    return torch.arange(256, dtype=torch.float32, device=pixels.device)[None, None]


def _look_up(pixels: Tensor, tables: Tensor) -> Tensor:
    """``tables``: uint8 [B, C, 256], or [B, 1, 256] for all channels."""
    batch, channels, _ = tables.shape
    first = torch.arange(0, tables.numel(), 256, dtype=torch.int32, device=pixels.device)
    places = pixels + first.view(batch, 1, 1, channels)
    return tables.flatten().index_select(0, places.flatten()).view(pixels.shape)


def _blended(x: Tensor, other: Tensor, shares: Tensor, rules: str) -> Tensor:
    """``shares``: [B, …, 2]; ``x``: floats with one dimension more than is left of them."""
    share, rest = (shares[..., place, None, None] for place in (0, 1))
    if rules == "pillow":
        return _bytes(other + share * (x - other))
    if rules == "tensor":
        return _bytes(share * x + rest * other)
    # A fused multiply-add, since doubles hold the product.
    return _bytes((rest.double() * other.double() + (share * x).double()).float())


def _bytes(values: Tensor) -> Tensor:
    return values.clamp(0.0, 255.0).to(torch.uint8)


def _grey(pixels: Tensor, rules: str) -> Tensor:
    """The luminance, uint8 [B, H, W]."""
    if pixels.shape[3] == 1:
        return pixels[..., 0]
    if rules == "pillow":
        red, green, blue = pixels.int().unbind(3)
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)
    red, green, blue = pixels.float().unbind(3)
    if rules == "tensor":
        return (red * 0.2989 + green * 0.587 + blue * 0.114).to(torch.uint8)
    value = (green.double() * _GREEN + (red * 0.2989).double()).float()
    return (blue.double() * _BLUE + value.double()).float().to(torch.uint8)


_GREEN, _BLUE = 0.5870000123977661, 0.11400000005960464  # in single precision


def _turned_levels(pixels: Tensor, shift: Tensor, rules: str) -> Tensor:
    """Through Pillow's HSV of 8 bits."""
    red, green, blue = pixels.int().unbind(3)
    high, low = pixels.amax(3).int(), pixels.amin(3).int()
    value = high.double()
    range_ = (high - low).clamp(min=1).float()
    from_r, from_g, from_b = ((high - one).float() / range_ for one in (red, green, blue))
    second = (2.0 + from_r.double() - from_b.double()).float()
    third = (4.0 + from_g.double() - from_r.double()).float()
    sixths = torch.where(red == high, from_b - from_g, torch.where(green == high, second, third))
    turns = sixths.double() / constant(6.0, value) + 1.0
    turns = torch.where(turns >= 1.0, turns - 1.0, turns).float().double()
    turned = (torch.where(high == low, 0, (turns * 255.0).int()) + shift) & 255
    saturation = (((high - low).float() / high.clamp(min=1).float()).double() * 255.0).int()

    # And back.
    scaled = turned.double() * 6.0 / constant(255.0, value)
    sector = scaled.int()
    inside, part = (scaled - sector).float(), (saturation.double() / constant(255.0, value)).float()
    bottom = (value * (1.0 - part.double()) + 0.5).int()
    falling = (value * (1.0 - (part * inside).double()) + 0.5).int()
    rising = (value * (1.0 - part.double() * (1.0 - inside.double())) + 0.5).int()
    return _from_sectors(sector, high, falling, rising, bottom).to(torch.uint8)


def _turned_floats(pixels: Tensor, shift: Tensor, rules: str) -> Tensor:
    values = pixels.float() * _FLOAT_255TH if rules == "tensor v2" else pixels.float() / constant(255.0, shift)
    red, green, blue = values.unbind(3)
    high, low = values.amax(3), values.amin(3)
    grey = high == low
    range_ = torch.where(grey, 1.0, high - low)
    from_r, from_g, from_b = ((high - one) / range_ for one in (red, green, blue))
    second, third = 2.0 + from_r - from_b, 4.0 + from_g - from_r
    sixths = torch.where(red == high, from_b - from_g, torch.where(green == high, second, third))
    turns = (sixths * _FLOAT_SIXTH if rules == "tensor v2" else sixths / constant(6.0, shift)) + 1.0
    turns = torch.where(turns >= 1.0, turns - 1.0, turns) + shift
    turns = turns - ((turns + 1.0).int().float() - 1.0)  # a floor, since the sum is in [-1, 3)
    saturation = (high - low) / torch.where(grey, 1.0, high)

    # And back.
    scaled = turns * 6.0
    sector = scaled.int()
    inside = scaled - sector.float()
    less = 1.0 - saturation
    bottom = high * less
    falling = high * (1.0 - saturation * inside)
    gentle = saturation * inside + less if rules == "tensor v2" else 1.0 - saturation * (1.0 - inside)
    bottom, falling, rising = (one.clamp(0.0, 1.0) for one in (bottom, falling, high * gentle))
    return (_from_sectors(sector, high, falling, rising, bottom) * (255.0 + 1.0 - 1e-3)).to(torch.uint8)


_FLOAT_SIXTH = 0.1666666716337204  # 1 / 6 in single precision


def _from_sectors(sector: Tensor, high: Tensor, falling: Tensor, rising: Tensor, bottom: Tensor) -> Tensor:
    """[B, H, W, 3]: what red, green and blue are in each sector of the colour wheel; the sixth is the first again."""
    sector = torch.where(sector == 6, 0, sector)
    red, green, blue = bottom, bottom, bottom
    for number, colours in enumerate(
        (
            (high, rising, bottom),
            (falling, high, bottom),
            (bottom, high, rising),
            (bottom, falling, high),
            (rising, bottom, high),
            (high, bottom, falling),
        )
    ):
        here = sector == number
        red, green, blue = (torch.where(here, new, old) for new, old in zip(colours, (red, green, blue), strict=True))
    return torch.stack([red, green, blue], dim=3)
