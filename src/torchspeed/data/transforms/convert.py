"""From levels to the values that a model is given: ``ToTensor``, ``ToImage``, ``ToDtype``, ``Normalize`` and the like.

None of them is lowered by a formula: the user's own transform is run on the 256 levels, and the table that comes out
is what the kernel looks up. So they are exact whatever they compute.
"""

from typing import Any

from torchspeed.data.pipeline.operation import Pointwise, Unreadable
from torchspeed.data.sources.source import Holds
from torchspeed.data.transforms.reading import Place, shown


def read_conversion(transform: Any, place: Place) -> Pointwise:
    name = type(transform).__name__
    gives: Holds
    if name in ("ToTensor", "ToImage", "PILToTensor"):
        if name != "ToImage" and place.holds != "pil":
            raise Unreadable(f"{name} is given a tensor")
        gives = "float tensor" if name == "ToTensor" else "uint8 tensor"
        return Pointwise(transform=transform, label=shown(transform), gives=gives)
    if place.holds == "pil":
        raise Unreadable(f"{name} is given a PIL image")
    if name in ("ToDtype", "ConvertImageDtype"):
        dtype = transform.dtype
        if isinstance(dtype, dict):
            raise Unreadable("ToDtype with a dtype for each kind of input")
        gives = "float tensor" if dtype.is_floating_point else place.holds
        if not dtype.is_floating_point and (place.holds == "float tensor" or str(dtype) != "torch.uint8"):
            raise Unreadable(f"converts to {dtype}")
        label = shown(transform, str(dtype).removeprefix("torch."), scale=getattr(transform, "scale", None) or None)
        return Pointwise(transform=transform, label=label, gives=gives)
    if name == "Normalize":
        if place.holds != "float tensor":
            raise Unreadable("Normalize is given integers")
        return Pointwise(transform=transform, label="Normalize(…)", gives="float tensor")
    return Pointwise(transform=transform, label=shown(transform), gives=place.holds)
