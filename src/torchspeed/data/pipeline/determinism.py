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
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.fetch import generators_kept

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


def same(one: Any, other: Any) -> bool:
    """Whether two samples are equal, bit for bit, through tuples, lists and dictionaries."""
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bytes(one) == _bytes(other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if hasattr(one, "tobytes") and hasattr(one, "mode"):  # a PIL image
        return hasattr(other, "mode") and one.mode == other.mode and bool(one.tobytes() == other.tobytes())
    return type(one) is type(other) and bool(one == other)


_NAMES = ("Python's random", "NumPy", "PyTorch")


def _states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return random.getstate(), repr(numpy_state), _bytes(torch.get_rng_state())


def _bytes(tensor: Tensor) -> bytes:
    array: NDArray[Any] = tensor.detach().as_subclass(Tensor).contiguous().flatten().view(torch.uint8).numpy()
    return array.tobytes()
