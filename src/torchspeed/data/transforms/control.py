"""Transforms that hold others: ``RandomApply``, ``RandomChoice``, ``RandomOrder``.

Each turns into masks: what one sample does and another does not is drawn, and carried out, for some of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images
from torchspeed.data.pipeline.operation import AsWritten, Operation, Params, Sizes, Unreadable
from torchspeed.data.transforms.reading import Place, shown

Group = tuple[Operation, ...]  # what is done together
Mask = NDArray[np.bool_]  # [B]


@final
@dataclass(frozen=True, kw_only=True)
class RandomApply(Operation):
    """``inclusive``: whether a draw that is exactly ``p`` counts (in torchvision v1 it does)."""

    group: Group
    p: float
    inclusive: bool

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return _size([self.group], heights, widths)

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        drawn, p = draws.rand(), np.float32(self.p)
        where = drawn <= p if self.inclusive else drawn < p
        return where, _draw(self.group, draws.only(where), heights, widths)

    def apply(self, images: Images, params: Params) -> None:
        where, inner = params
        _apply(self.group, images, where, inner)


def read_random_apply(transform: Any, place: Place) -> RandomApply:
    group = _group(transform.transforms, place)
    label = shown(transform, *(step.label for step in group), p=float(transform.p))
    return RandomApply(**_common(transform, label, [group]), group=group, p=transform.p, inclusive=not place.v2)


@final
@dataclass(frozen=True, kw_only=True)
class RandomChoice(Operation):
    """``weights``: one per group, or None where all are as likely."""

    groups: tuple[Group, ...]
    weights: tuple[float, ...] | None
    v2: bool

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return _size(self.groups, heights, widths)

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        if self.v2:
            assert self.weights is not None
            chosen = draws.multinomial(self.weights)
        else:
            chosen = draws.python_choice(len(self.groups), self.weights)
        inner = [_draw(group, draws.only(chosen == k), heights, widths) for k, group in enumerate(self.groups)]
        return chosen, tuple(inner)

    def apply(self, images: Images, params: Params) -> None:
        chosen, inner = params
        for k, group in enumerate(self.groups):
            _apply(group, images, chosen == k, inner[k])


def read_random_choice(transform: Any, place: Place) -> RandomChoice:
    groups = _groups(transform.transforms, place)
    weights = None if transform.p is None else tuple(map(float, transform.p))
    common = _common(transform, shown(transform, *_labels(groups)), groups)
    return RandomChoice(**common, groups=groups, weights=weights, v2=place.v2)


@final
@dataclass(frozen=True, kw_only=True)
class RandomOrder(Operation):
    groups: tuple[Group, ...]
    v2: bool

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return _size(self.groups, heights, widths)

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        count = len(self.groups)
        order = draws.randperm(count) if self.v2 else draws.python_shuffle(count)
        inner = [
            tuple(_draw(group, draws.only(order[:, turn] == k), heights, widths) for k, group in enumerate(self.groups))
            for turn in range(count)
        ]
        return order, tuple(inner)

    def apply(self, images: Images, params: Params) -> None:
        order, inner = params
        for turn, drawn in enumerate(inner):
            for k, group in enumerate(self.groups):
                _apply(group, images, order[:, turn] == k, drawn[k])


def read_random_order(transform: Any, place: Place) -> RandomOrder:
    groups = _groups(transform.transforms, place)
    return RandomOrder(**_common(transform, shown(transform, *_labels(groups)), groups), groups=groups, v2=place.v2)


def _size(groups: Sequence[Group], heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
    for group in groups:
        for step in group:
            step.size(heights, widths)  # which says so where images are too small
    return heights, widths


def _draw(group: Group, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
    return tuple(step.draw(draws, heights, widths) for step in group)


def _apply(group: Group, images: Images, where: Mask, params: Params) -> None:
    with images.only(where):
        for step, drawn in zip(group, params, strict=True):
            step.apply(images, drawn)


def _common(transform: Any, label: str, groups: Sequence[Group]) -> dict[str, Any]:
    steps = [step for group in groups for step in group]
    exact, moves = all(step.exact for step in steps), all(step.moves for step in steps)
    return {"transform": transform, "label": label, "random": True, "exact": exact, "moves": moves}


def _groups(transforms: Any, place: Place) -> tuple[Group, ...]:
    return tuple(_group(transform, place) for transform in transforms)


def _group(transforms: Any, place: Place) -> Group:
    """Operations that leave the size and the number of channels alone; ``Unreadable`` for anything else."""
    group = []
    for step in place.inner(transforms, place.holds, place.channels):
        if isinstance(step, AsWritten):
            raise Unreadable(f"holds {step.label}: {step.why}")
        if not isinstance(step, Operation):
            raise Unreadable(f"holds {step.label}, after which some images are floats and some are not")
        heights, widths = np.array([2003, 1511]), np.array([1009, 3001])
        sizes = step.size(heights, widths)
        if (sizes[0] != heights).any() or (sizes[1] != widths).any():
            raise Unreadable(f"holds {step.label}, after which the sizes of images differ")
        if step.channels not in (None, place.channels):
            raise Unreadable(f"holds {step.label}, after which the numbers of channels differ")
        group.append(step)
    return tuple(group)


def _labels(groups: Sequence[Group]) -> list[str]:
    return [" + ".join(step.label for step in group) for group in groups]
