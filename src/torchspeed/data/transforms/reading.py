"""What readers of transforms share: the place of a transform in its chain, and how one is shown.

A reader is a function ``(transform, place) -> Step``. It knows the class by its name alone, since torchspeed does not
import torchvision, and it raises ``Unreadable`` for a configuration that it does not lower: that is then run as it is
written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torchspeed.data.pipeline.images import Fill, Rules
from torchspeed.data.pipeline.operation import Step, Unreadable
from torchspeed.data.sources.source import Holds


@dataclass(frozen=True)
class Place:
    """Where a transform stands.

    holds: what it is given, in images of ``channels`` channels. stage: how many pointwise steps come before it. v2:
    whether it is of ``torchvision.transforms.v2``. inner: reads transforms that it holds, given what they are given.
    """

    holds: Holds
    stage: int
    v2: bool
    channels: int
    inner: Callable[[Any, Holds, int], list[Step]]


def shown(transform: Any, *arguments: object, **options: object) -> str:
    """``RandomCrop(32, padding=4)``: the class with what distinguishes it; options that are None are left out."""
    parts = [_text(value) for value in arguments]
    parts += [f"{name}={_text(value)}" for name, value in options.items() if value is not None]
    return f"{type(transform).__name__}({', '.join(parts)})"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_text, value)) + ")"
    return getattr(value, "value", None) or str(value)


def one_fill(fill: Any, place: Place) -> Fill:
    """What a transform fills in with; torchvision v2 keeps it per kind of input, which must be one here."""
    if isinstance(fill, dict):
        kinds = {repr(value): value for value in fill.values()}
        if len(kinds) > 1:
            raise Unreadable(f"fills in differently by kind of input ({', '.join(kinds)})")
        fill = next(iter(kinds.values()), 0)
    if fill is None:
        fill = 0
    if isinstance(fill, (int, float)):
        return Fill((float(fill),), place.stage)
    if isinstance(fill, Sequence) and all(isinstance(value, (int, float)) for value in fill):
        return Fill(tuple(map(float, fill)), place.stage)
    raise Unreadable(f"fill={fill!r}")


def filter_name(interpolation: Any) -> str:
    """ "bilinear" and so on, of torchvision's InterpolationMode, of Pillow's number, or of a text."""
    name = getattr(interpolation, "value", interpolation)
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    return str(names.get(name, name))


def rules_of(place: Place) -> Rules:
    """By whose rules a transform rounds; for what is lowered on levels alone."""
    no_levels_after_conversion(place)
    if place.holds == "pil":
        return "pillow"
    return "tensor v2" if place.v2 else "tensor"


def no_levels_after_conversion(place: Place) -> None:
    """For what is lowered on levels alone."""
    if place.holds == "float tensor":
        raise Unreadable("works on floats here; put it before ToTensor or ToDtype to have it compiled")
