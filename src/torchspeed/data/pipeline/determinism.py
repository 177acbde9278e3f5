"""Does code give the same thing every time? Nothing is kept in a cache before this was asked.

Two questions, put to the user's own code on some items. Is the result the same whatever state the generators of
Python, NumPy and PyTorch are in? And did it leave those states alone? The second catches what the first would miss
most of the time: code that throws a coin and does something one time in a hundred has drawn a number each time.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from torchspeed.data.fetch import generators_kept
from torchspeed.data.sources.tree import same

_SEEDS = (1, 20_261, 4_294_967_291)


def varies(call: Callable[[], Any]) -> str | None:
    """A sentence why what ``call`` gives may not be kept, or None. The generators are left as they were."""
    results = []
    with generators_kept():
        for seed in _SEEDS:
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            before = _states()
            results.append(call())
            drawn = [name for name, old, new in zip(_NAMES, before, _states(), strict=True) if old != new]
            if drawn:
                return f"draws from the generator of {drawn[0]}"
    if not all(same(results[0], other) for other in results[1:]):
        return "gives another result at each call"
    return None


_NAMES = ("Python's random", "NumPy", "PyTorch")


def _states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return random.getstate(), repr(numpy_state), torch.get_rng_state().numpy().tobytes()
