"""Boxes of random area and aspect ratio, as ``RandomResizedCrop`` and ``RandomErasing`` both draw them."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.operation import Sizes

_ATTEMPTS = 10  # a box that does not fit is drawn again as often


def draw_boxes(
    draws: Draws,
    heights: Sizes,
    widths: Sizes,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    wanted: NDArray[np.bool_],
    fits: Callable[[Sizes, Sizes], NDArray[np.bool_]],
    upright: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(boxes int64 [B, 4]: top, left, height, width; bool [B]: whether one was found) for the samples ``wanted``.

    ``scale``: of the area; ``ratio``: width over height, or height over width if ``upright``.
    """
    boxes = np.zeros((len(heights), 4), np.int64)
    missing = wanted
    area = (heights * widths).astype(np.float64)
    low, high = torch.log(torch.tensor(ratio)).tolist()
    for _ in range(_ATTEMPTS):
        if not missing.any():
            break
        trying = draws.only(missing)
        target = area * trying.uniform(*scale).astype(np.float64)
        aspect = torch.exp(torch.from_numpy(trying.uniform(low, high))).numpy().astype(np.float64)
        long, short = np.rint(np.sqrt(target * aspect)), np.rint(np.sqrt(target / aspect))
        width, height = (side.astype(np.int64) for side in ((short, long) if upright else (long, short)))
        found = missing & fits(height, width)
        placing = draws.only(found)
        top = placing.randint(0, heights - height + 1)
        left = placing.randint(0, widths - width + 1)
        boxes[found] = np.stack([top, left, height, width], axis=1)[found]
        missing = missing & ~found
    return boxes, wanted & ~missing
