"""Images as the user's code holds them, and as levels: PIL images, tensors [C, H, W], and uint8 arrays [H, W, C]."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.pipeline.operation import Unreadable
from torchspeed.data.sources.source import Holds
from torchspeed.errors import MissingPackage

_MODES = {1: "L", 3: "RGB"}


def as_held(levels: NDArray[np.uint8], holds: Holds) -> Any:
    """What the user's transform is given, of uint8 [H, W, C]."""
    if holds == "pil":
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingPackage("pillow", extra="images", why="the transforms work on PIL images") from error
        return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(levels, 2, 0)))


def levels_of(image: Any) -> NDArray[np.uint8]:
    """uint8 [H, W, C] of a PIL image of mode L or RGB, or of a uint8 tensor [C, H, W]. ``Unreadable`` for others."""
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) not in _MODES:
            raise Unreadable(f"a tensor of {image.dtype} {list(image.shape)}; uint8 [1 or 3, H, W] is read")
        return np.moveaxis(image.as_subclass(Tensor).numpy(), 0, 2)
    mode = getattr(image, "mode", None)
    if mode not in _MODES.values():
        found = f"a PIL image of mode {mode}" if mode else f"a {type(image).__name__}"
        raise Unreadable(f"{found}; modes L and RGB are read")
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
