"""Windows out of long arrays, a batch at a time: of tokens, and of recordings that lie end to end."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.jit import kernel

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]


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


@kernel
def waveform_windows(
    samples: Floats, starts: Integers, counts: Integers, leads: Integers, gains: Floats, out: Floats
) -> None:
    """``out`` [B, length]: recording b, ``counts`` samples from ``starts`` on, begins at place ``leads`` (before the
    window if below 0), is multiplied by ``gains``, and has silence around it."""
    length = out.shape[1]
    for b in range(len(starts)):
        first = min(max(leads[b], 0), length)
        after = max(min(leads[b] + counts[b], length), first)
        source = starts[b] - leads[b]
        gain = gains[b]
        out[b, :first] = 0
        for i in range(first, after):
            out[b, i] = gain * samples[source + i]
        out[b, after:] = 0
