"""Boxes of converted images set to a value."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel


@kernel
def erase(out: NDArray[Any], boxes: NDArray[np.int64], values: NDArray[Any]) -> None:
    """``out`` [B, H, W, C], in place; ``boxes`` int64 [B, 4]: top, left, height, width; ``values`` [C]."""
    for b in range(len(out)):
        top, left, height, width = boxes[b]
        for i in range(top, top + height):
            for j in range(left, left + width):
                for c in range(out.shape[3]):
                    out[b, i, j, c] = values[c]
