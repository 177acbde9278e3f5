"""Samples as trees: tuples, lists and dictionaries that nest, and the values at their leaves.

A dataset gives ``(image, label)``, ``{"pixels": image, "label": label}`` or any nesting of such; whatever is none of
these containers is a leaf. A named tuple or an ordered dictionary stays one.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Path = tuple[Any, ...]


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, leaf) of every leaf; a path is the keys and positions that lead to it."""
    if isinstance(tree, dict):
        for key, item in tree.items():
            yield from leaves(item, (*path, key))
    elif isinstance(tree, (tuple, list)):
        for position, item in enumerate(tree):
            yield from leaves(item, (*path, position))
    else:
        yield path, tree


def with_leaves(tree: Any, leaf: Callable[[Path], Any], path: Path = ()) -> Any:
    """A tree of the same containers whose leaf at each path is ``leaf(path)``."""
    if isinstance(tree, dict):
        filled = copy.copy(tree)  # keeps its class, order and default
        filled.update({key: with_leaves(item, leaf, (*path, key)) for key, item in tree.items()})
        return filled
    if isinstance(tree, (tuple, list)):
        parts = [with_leaves(item, leaf, (*path, position)) for position, item in enumerate(tree)]
        return tree._make(parts) if hasattr(tree, "_make") else type(tree)(parts)
    return leaf(path)


def replaced(tree: Any, place: Path, value: Any) -> Any:
    """The tree with another leaf at ``place``."""
    kept = dict(leaves(tree))
    return with_leaves(tree, lambda path: value if path == place else kept[path])


def same(a: Any, b: Any) -> bool:
    """True for equal values of the same type, shape and dtype, down to the bits of arrays (NaN equals NaN)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _same_array(_numbers(a), _numbers(b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and _same_array(a, b)
    try:
        return bool(a == b) or a != a != b != b
    except Exception:  # a comparison that gives no yes or no
        return False


def is_pil(value: Any) -> bool:
    """Known by name: whoever has no Pillow has no such image."""
    return any(f"{kind.__module__}.{kind.__qualname__}" == "PIL.Image.Image" for kind in type(value).__mro__)


def _same_array(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    if a.dtype == object:
        return a.shape == b.shape and all(map(same, a.ravel(), b.ravel()))
    return bool(a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes())


def _numbers(tensor: Tensor) -> np.ndarray[Any, Any]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
