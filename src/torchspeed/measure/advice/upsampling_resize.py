"""A resize that gives the model more pixels than the data have.

Interpolation adds no information: each new pixel is a weighted mean of old ones. The work of convolutions and the
memory of activations grow with the number of pixels, so 32 × 32 pictures resized to 224 × 224 cost 49 times as much, in
the loader as well. It comes from tutorials that were written for networks pretrained at 224; there, and only there, the
weights expect objects of that size.
Source: Touvron et al., arXiv:1906.06423, on apparent object size and what a change of resolution costs.
"""

import re
from collections.abc import Iterator
from statistics import median
from typing import Any

from torch import Tensor
from torch.utils.data import ConcatDataset

from torchspeed.data.fetch import generators_kept
from torchspeed.data.sources.probe import ProbingReader, slots
from torchspeed.data.sources.source import Opaque
from torchspeed.measure.advice.source import Node, called_name
from torchspeed.measure.advice.subject import Advice, Subject

_LEAST, _LOOKS = 1.5, 8
_RESIZES = re.compile("resize|rescale|upsample", re.IGNORECASE)
_REMEDY = (
    "take it out and fit the model to the picture (a first Linear, or a global pool); keep it for pretrained weights"
)


def upsampling_resize(subject: Subject) -> Iterator[Advice]:
    yield from _in_the_data(subject)
    for call in subject.trace.of("interpolate"):
        given = call.input
        if given is None or given.number not in subject.trace.batch or len(given.shape) != 4:
            continue
        (_, _, *before), (_, _, *after) = given.shape, call.outputs[0].shape
        if _growth(before, after) >= _LEAST:
            yield _advice(subject.place_of(call), "interpolate", [(before, after)])


def _in_the_data(subject: Subject) -> Iterator[Advice]:
    dataset: Any = getattr(subject.run.loader, "dataset", subject.job.train)
    origin = getattr(dataset, "origin", None)  # of a dataset that was compiled
    dataset = origin[0] if origin else dataset
    for part in dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]:
        resize, sizes = _resize(part)
        if resize is not None and median(_growth(*pair) for pair in sizes) >= _LEAST:
            yield _advice(_line(subject, resize), type(resize).__name__, sizes)


def _advice(place: str, what: str, sizes: list[tuple[list[int], list[int]]]) -> Advice:
    before, after = sizes[0]
    return Advice(
        "upsampling_resize",
        place,
        f"{what} makes {after[0]}×{after[1]} pixels out of {before[0]}×{before[1]}",
        f"work per image grows {median(_growth(*pair) for pair in sizes):.3g}-fold and no information is added",
        _REMEDY,
    )


def _resize(dataset: Any) -> tuple[Any, list[tuple[list[int], list[int]]]]:
    """The first transform that resizes, and for some images (the size before it, the size that the model gets)."""
    with generators_kept():
        for slot in slots(dataset):
            chain = list(_flat(slot.transform))
            position = next((i for i, each in enumerate(chain) if _RESIZES.search(type(each).__name__)), None)
            if position is None:
                continue
            try:
                reader = ProbingReader(dataset, slot)
                count = len(reader.dataset)
                images = [reader.take(index)[0] for index in range(0, count, max(1, count // _LOOKS))]
            except Opaque:
                continue
            return chain[position], [_sizes(chain, position, image) for image in images]
    return None, []


def _sizes(chain: list[Any], position: int, image: Any) -> tuple[list[int], list[int]]:
    for each in chain[:position]:
        image = each(image)
    before = _size(image)
    for each in chain[position:]:
        image = each(image)
    return before, _size(image)


def _flat(transform: Any) -> Iterator[Any]:
    """The transforms of a ``Compose``, a sequence, or one; each can be called by itself."""
    inner = getattr(transform, "transforms", None) if type(transform).__name__ == "Compose" else None
    inner = transform if isinstance(transform, (list, tuple)) else inner
    if type(transform).__name__ in ("Sequential", "ModuleList"):
        inner = list(transform.children())
    if inner is None:
        yield transform
    for each in inner or ():
        yield from _flat(each)


def _size(image: Any) -> list[int]:
    """[H, W] of a PIL image, a tensor [..., H, W] or an array [H, W, C]."""
    if isinstance(image, Tensor):
        return list(image.shape[-2:])
    if hasattr(image, "shape"):
        return list(image.shape[:2])
    return [image.height, image.width]


def _growth(before: list[int], after: list[int]) -> float:
    return after[0] * after[1] / max(1, before[0] * before[1])


def _line(subject: Subject, resize: Any) -> str:
    """Where the user wrote it; of several, the one whose size is this one's."""
    calls = list(subject.sources.calls(type(resize).__name__))
    size = getattr(resize, "size", None)
    return max(calls, key=lambda call: _has_size(call, size)).place if calls else ""


def _has_size(call: Node, size: Any) -> bool:
    wanted = set(size if isinstance(size, (list, tuple)) else [size])
    written = {getattr(node.syntax, "value", None) for node in call.walk(object)}  # type: ignore[arg-type]
    return bool(called_name(call.syntax)) and wanted <= written
