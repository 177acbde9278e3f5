"""What a transform is given, found by giving the dataset another transform.

There are as many dataset classes as users, and nearly all end alike: ``image = self.transform(image)`` and the image
goes into a sample. So instead of a reader for each class the user's own code is run once more, on a shallow copy whose
transform is a probe: it keeps what it is called with and returns a token. If the token comes back as one leaf of the
sample, untouched, then what the probe was called with is the raw image, and the other leaves are the rest. Whatever
the code does to the token in between (a shape asked for, an operation) fails, and the dataset is opaque.

The copy has its own lists and dictionaries, so that a dataset that caches its samples never keeps a token.
"""

import copy
import re
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchspeed.data.sources.source import Hole, Opaque
from torchspeed.data.sources.tree import is_pil, leaves, replaced

_MAX_DEPTH = 6  # of datasets that wrap datasets
_NAMES = re.compile(
    r"_*(img_|image_|train_|val_|input_|x_)?(transform\w*|tf|tfm|tfms|preprocess\w*|augment\w*|aug|augs)", re.IGNORECASE
)
_OF_SOMETHING_ELSE = re.compile("target|label|mask", re.IGNORECASE)
_COPIED = (dict, list, set, deque, bytearray)


class Reader(ABC):
    """Takes the samples of a dataset apart, each by one call of the user's ``__getitem__``."""

    dataset: Any
    transform: Callable[[Any], Any] | None

    @abstractmethod
    def take(self, index: int) -> tuple[Any, Any]:
        """(raw image, the sample with ``Hole()`` in its place).

        Raises ``Opaque`` if the sample has another form, and whatever the user's code raises.
        """


class PlainReader(Reader):
    """A dataset without a transform: the image is the one leaf that is a PIL image or levels [C, H, W]."""

    transform = None

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def take(self, index: int) -> tuple[Any, Any]:
        sample = self.dataset[index]
        images = [(path, leaf) for path, leaf in leaves(sample) if _is_image(leaf)]
        if len(images) != 1:
            found = f"{len(images) or 'no'} PIL images or uint8 tensors [C, H, W]"
            raise Opaque(f"sample {index} holds {found}, and {type(self.dataset).__name__} has no known transform")
        (path, image), *_ = images
        return image, replaced(sample, path, Hole())


@dataclass(frozen=True)
class Slot:
    """Where a transform is kept: ``dataset.<path[0]>.<path[1]>…`` is an attribute ``name`` of value ``transform``."""

    path: tuple[str, ...]
    name: str
    transform: Callable[[Any], Any]

    def __str__(self) -> str:
        return ".".join((*self.path, self.name))


class NotAsked(Opaque):
    """No sample calls this transform: it is not the one."""


class ProbingReader(Reader):
    """A dataset with a transform, in whose place a probe stands."""

    def __init__(self, dataset: Any, slot: Slot) -> None:
        self.dataset, self.slot, self.transform = dataset, slot, slot.transform
        self.probe, self.asked = _Probe(), False
        self.copy = _with_probe(dataset, slot.path, slot, self.probe)

    def take(self, index: int) -> tuple[Any, Any]:
        calls = self.probe.calls = []
        try:
            sample = self.copy[index]
        finally:
            self.probe.calls = []  # a token holds an image
        slot = self.slot
        if not calls and not self.asked:
            raise NotAsked(f"sample {index} comes without a call of {slot}")
        if not calls:
            raise Opaque(f"sample {index} comes without a call of {slot}, as if it had been kept")
        self.asked = True
        if len(calls) > 1:
            raise Opaque(f"sample {index} calls {slot} {len(calls)} times")
        (token,) = calls
        if token.keywords or len(token.arguments) != 1:
            given = ", ".join([type(value).__name__ for value in token.arguments] + list(token.keywords))
            raise Opaque(f"{slot} is called with ({given}), not with one image")
        places = [path for path, leaf in leaves(sample) if leaf is token]
        if len(places) != 1:
            raise Opaque(f"what {slot} returns is not a part of sample {index} as it is")
        return token.arguments[0], replaced(sample, places[0], Hole())


def slots(dataset: Any) -> Iterator[Slot]:
    """Where the dataset, or a dataset that it wraps, seems to keep a transform of images."""
    yield from _slots(dataset, (), _MAX_DEPTH)


def is_dataset(value: Any) -> bool:
    """True for what is asked by position and is not itself the data: no list, array, table or mapping."""
    return (
        hasattr(type(value), "__getitem__")
        and hasattr(type(value), "__len__")
        and hasattr(value, "__dict__")
        and not isinstance(value, (list, tuple, dict, str, bytes, np.ndarray, Tensor, nn.Module))
        and not hasattr(value, "iloc")
    )


class _Token:
    """Comes back from the probe in place of a transformed image; whatever is done with it but passing it on fails."""

    def __init__(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.arguments, self.keywords = arguments, keywords

    def __bool__(self) -> bool:
        raise TypeError("the truth of what the transform returned was asked for")


class _Probe(threading.local):
    """Stands where the transform stood; each thread has its own record of calls."""

    def __init__(self) -> None:
        self.calls: list[_Token] = []

    def __call__(self, *arguments: Any, **keywords: Any) -> _Token:
        self.calls.append(_Token(arguments, keywords))
        return self.calls[-1]


def _is_image(leaf: Any) -> bool:
    levels = isinstance(leaf, Tensor) and leaf.dtype == torch.uint8 and leaf.dim() == 3 and leaf.shape[0] in (1, 3)
    return levels or is_pil(leaf)


def _slots(owner: Any, path: tuple[str, ...], depth: int) -> Iterator[Slot]:
    attributes = getattr(owner, "__dict__", {})
    for name, value in attributes.items():
        if callable(value) and not is_dataset(value) and _seems_a_transform(name, value):
            yield Slot(path, name, value)
    if depth:
        for name, value in attributes.items():
            if is_dataset(value):
                yield from _slots(value, (*path, name), depth - 1)


def _seems_a_transform(name: str, value: Any) -> bool:
    if _OF_SOMETHING_ELSE.search(name):
        return False
    by_class = isinstance(value, nn.Module) or type(value).__module__.startswith("torchvision.transforms")
    return by_class or _NAMES.fullmatch(name) is not None


def _with_probe(owner: Any, path: tuple[str, ...], slot: Slot, probe: _Probe) -> Any:
    """A copy of ``owner`` that calls the probe; what it does to its own lists and dictionaries stays in the copy."""
    if hasattr(type(owner), "__del__"):
        raise Opaque(f"{type(owner).__name__} has a __del__, which a copy of it would run too")
    try:
        twin = copy.copy(owner)
    except Exception as error:
        raise Opaque(f"{type(owner).__name__} cannot be copied: {type(error).__name__}: {error}") from error
    attributes = vars(twin)
    for name, value in attributes.items():
        if path and name == path[0]:
            attributes[name] = _with_probe(value, path[1:], slot, probe)
        elif path:
            attributes[name] = _own(value)
        else:
            attributes[name] = probe if value is slot.transform else _own(_around(value, slot.transform, probe))
    return twin


def _around(value: Any, transform: Callable[[Any], Any], probe: _Probe) -> Any:
    """torchvision's datasets keep the transform a second time, in a ``StandardTransform(transform, …)``."""
    held = getattr(value, "__dict__", {})
    if not callable(value) or all(part is not transform for part in held.values()):
        return value
    twin = copy.copy(value)
    vars(twin).update({name: probe for name, part in held.items() if part is transform})
    return twin


def _own(value: Any) -> Any:
    """Lists and dictionaries inside one another are copied; what they hold is shared."""
    if not isinstance(value, _COPIED):
        return value
    own = copy.copy(value)
    if isinstance(own, dict):
        own.update({key: _own(item) for key, item in own.items() if isinstance(item, _COPIED)})
    elif isinstance(own, list) and any(isinstance(item, _COPIED) for item in own):
        own[:] = map(_own, own)
    return own
