"""Windows of tokens out of a long row of them, a batch at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Integers = NDArray[np.int64]


@kernel
def token_windows(tokens: NDArray[Any], starts: Integers, ignored: int, inputs: Integers, targets: Integers) -> None:
    """``inputs`` [B, length]: the tokens [N] from each of ``starts`` [B] on; ``targets``: those one place later.

    A window that would leave the tokens is moved back into them, and its targets from before its start are ``ignored``.
    """
    length = inputs.shape[1]
    for b in range(len(starts)):
        first = max(0, min(starts[b], len(tokens) - length - 1))
        for i in range(length):
            inputs[b, i] = tokens[first + i]
        for i in range(length):
            targets[b, i] = tokens[first + 1 + i]
        for i in range(min(starts[b] - first, length)):
            targets[b, i] = ignored
