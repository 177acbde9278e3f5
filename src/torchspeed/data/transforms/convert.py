"""From levels to the values that a model is given: ``ToTensor``, ``ToImage``, ``ToDtype``, ``Normalize`` and the like.

None of them is lowered by a formula: the user's own transform is run on the 256 levels, and the table that comes out
is what the kernel looks up. So they are exact whatever they compute.
"""

from typing import Any

import torch

from torchspeed.data.pipeline.operation import Pointwise, Unreadable
from torchspeed.data.sources.source import Holds
from torchspeed.data.transforms.reading import Place, shown

_HELD_AS_LEVELS = ("pil", "uint8 array")


def read_to_tensor(transform: Any, place: Place) -> Pointwise:
    if place.holds not in _HELD_AS_LEVELS:
        raise Unreadable("ToTensor is given a tensor")
    return Pointwise(transform=transform, label=shown(transform), gives="float tensor")


def read_to_byte_tensor(transform: Any, place: Place) -> Pointwise:
    """``ToImage``, ``PILToTensor``, ``ToPureTensor``: the same levels, held as a tensor."""
    gives: Holds = "uint8 tensor" if place.holds in _HELD_AS_LEVELS else place.holds
    return Pointwise(transform=transform, label=shown(transform), gives=gives)


def read_to_pil(transform: Any, place: Place) -> Pointwise:
    if place.holds == "float tensor" or transform.mode is not None:
        raise Unreadable("makes a PIL image of floats, or in a mode of its own")
    return Pointwise(transform=transform, label=shown(transform), gives="pil")


def read_to_dtype(transform: Any, place: Place) -> Pointwise:
    dtype = transform.dtype
    if isinstance(dtype, dict):
        raise Unreadable("a dtype for each kind of input")
    if place.holds in _HELD_AS_LEVELS:
        raise Unreadable(f"{type(transform).__name__} is not given a tensor")
    to_bytes = dtype == torch.uint8 and place.holds == "uint8 tensor"
    if not dtype.is_floating_point and not to_bytes:
        raise Unreadable(f"converts to {dtype}")
    label = shown(transform, str(dtype).removeprefix("torch."), scale=getattr(transform, "scale", None) or None)
    return Pointwise(transform=transform, label=label, gives="uint8 tensor" if to_bytes else "float tensor")


def read_normalize(transform: Any, place: Place) -> Pointwise:
    if place.holds != "float tensor":
        raise Unreadable("Normalize is not given floats")
    return Pointwise(transform=transform, label=shown(transform, transform.mean, transform.std), gives="float tensor")
