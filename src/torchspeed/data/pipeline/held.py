"""Images as the user's code holds them, and as levels: PIL images, tensors [C, H, W], and uint8 arrays [H, W, C]."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchspeed.data.pipeline.operation import Unreadable
from torchspeed.data.sources.images import as_levels
from torchspeed.data.sources.source import Holds
from torchspeed.errors import MissingPackage


def as_held(levels: NDArray[np.uint8], holds: Holds) -> Any:
    """What the user's transform is given, of uint8 [H, W, C]."""
    if holds == "pil":
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingPackage("pillow", extra="images", why="the transforms work on PIL images") from error
        return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    if holds == "uint8 array":
        return levels
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(levels, 2, 0)))


def levels_of(image: Any) -> NDArray[np.uint8]:
    """uint8 [H, W, C] of a PIL image of mode L or RGB, a tensor or an array of bytes. ``Unreadable`` for others."""
    levels = as_levels(image)
    if levels is None:
        about = getattr(image, "mode", None) or f"{getattr(image, 'dtype', '')} {list(getattr(image, 'shape', ()))}"
        raise Unreadable(f"a {type(image).__name__} ({about}), where images of mode L or RGB, or bytes, are read")
    return levels
