"""Masked rows and columns of pictures, such as spectrograms, behind the picture's own mean."""

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel


@kernel
def hide(pictures: NDArray[np.float32], rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> None:
    """``pictures`` [B, H, W] in place: their mean where ``rows`` [B, H] or ``columns`` [B, W] are true."""
    _, height, width = pictures.shape
    sums = np.empty(width, np.float64)
    for b in range(len(pictures)):
        sums[:] = 0
        for i in range(height):
            for j in range(width):
                sums[j] += pictures[b, i, j]
        mean = np.float32(sums.sum() / (height * width))
        for i in range(height):
            row_is_hidden = rows[b, i]
            for j in range(width):
                if row_is_hidden or columns[b, j]:
                    pictures[b, i, j] = mean
