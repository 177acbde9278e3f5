"""Read a user's transform, however it is nested, into the steps of ``torchspeed.data.pipeline.operation``.

torchvision is not imported: a class is its module and its name. A subclass of the user's own, a class of the same name
from elsewhere, a function: whatever is not known to the letter becomes a step that runs as it is written, and says why.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from torchspeed.data.pipeline.operation import AsWritten, Operation, Pointwise, Step, Unreadable
from torchspeed.data.sources.source import Holds
from torchspeed.data.transforms.reading import Place
from torchspeed.data.transforms.registry import ARRAY_READERS, READERS

_TORCHVISION = "torchvision.transforms"


def read_chain(transform: Any, holds: Holds, channels: int) -> list[Step]:
    """The steps of ``transform`` (None, one, a sequence, or nested ones), which is given images of ``channels``.

    After a step that runs as written the rest is read as if that step gave what it was given.
    """
    return _read(transform, holds, channels, stage=0)


def _read(transform: Any, holds: Holds, channels: int, stage: int) -> list[Step]:
    steps: list[Step] = []
    for each in _flat(transform):
        step = _step(each, Place(holds, stage, _is_v2(each), channels, partial(_read, stage=stage)))
        if isinstance(step, Pointwise):
            holds, stage = step.gives, stage + 1
        elif isinstance(step, Operation):
            channels = step.channels or channels
        steps.append(step)
    return steps


def _flat(transform: Any) -> Iterator[Any]:
    """The transforms one after the other, without what only holds others."""
    if _is_torchvision(transform) and type(transform).__name__ == "Compose":
        transform = transform.transforms
    if type(transform) in (list, tuple, nn.Sequential, nn.ModuleList):
        for each in transform:
            yield from _flat(each)
    elif transform is not None and type(transform) is not nn.Identity:
        yield transform


def _step(transform: Any, place: Place) -> Step:
    name = type(transform).__name__
    why = _unknown(transform)
    if why is None and place.holds == "uint8 array" and name not in ARRAY_READERS:
        why = "is given an array"
    if why is None:
        try:
            return READERS[name](transform, place)
        except Unreadable as reason:
            why = str(reason)
    return AsWritten(transform=transform, label=_label(transform), why=why)


def _unknown(transform: Any) -> str | None:
    """Why ``transform`` is not one that a reader knows, or None."""
    kind = type(transform)
    if not _is_torchvision(transform):
        known = [base for base in kind.__mro__ if base.__module__.startswith(_TORCHVISION) and base.__name__ in READERS]
        if known:
            return f"a subclass of torchvision's {known[0].__name__}, which may do anything else"
        return "your own code"
    if kind.__name__ == "Lambda":
        return "calls your own function"
    if kind.__name__ not in READERS:
        return f"torchvision's {kind.__name__} is not compiled"
    hooked = getattr(transform, "_forward_hooks", None) or getattr(transform, "_forward_pre_hooks", None)
    return "has hooks, which are your own code" if hooked else None


def _label(transform: Any) -> str:
    """As short as it can be found again: ``Lambda(normalise)``, ``MyCrop``."""
    function = getattr(transform, "lambd", None)
    if function is not None:
        return f"{type(transform).__name__}({getattr(function, '__name__', type(function).__name__)})"
    return str(getattr(transform, "__name__", type(transform).__name__))


def _is_torchvision(transform: Any) -> bool:
    module = type(transform).__module__
    return module == _TORCHVISION or module.startswith(_TORCHVISION + ".")


def _is_v2(transform: Any) -> bool:
    return type(transform).__module__.startswith(_TORCHVISION + ".v2")
