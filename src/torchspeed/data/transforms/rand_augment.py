"""Automatic augmentation: ``RandAugment``, ``TrivialAugmentWide``, ``AutoAugment``.

All three choose operations from a space of named ones with a few magnitudes each; they differ in what they draw. The
space is asked of the user's own object, so that it is that of the torchvision which they have.

Sources: Cubuk et al., arXiv:1909.13719; Müller & Hutter, arXiv:2103.10158; Cubuk et al., arXiv:1805.09501.
"""

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images
from torchspeed.data.pipeline.operation import Operation, Params, Sizes, Unreadable
from torchspeed.data.transforms.affine import Warping, read_warping
from torchspeed.data.transforms.enhance import ENHANCEMENTS, enhance
from torchspeed.data.transforms.reading import Place, shown

_WARPS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")
_FIRST_SIZE = 224  # only to learn the names

Space = Mapping[str, tuple[Any, bool]]  # name -> (magnitudes, whether they are signed)
Values = NDArray[np.float64]  # [B]
Which = NDArray[np.int64]  # [B], a number of an operation; -1 for none
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Augment(Operation):
    """names, signed, sized: of the operations. magnitudes: (height, width) -> [operations, bins]."""

    names: tuple[str, ...]
    signed: Bools
    sized: Bools
    magnitudes: Callable[[int, int], Values]
    warping: Warping

    @abstractmethod
    def rounds(self, draws: Draws, heights: Sizes, widths: Sizes) -> list[tuple[Which, Values]]:
        """What is done one after the other: the operations, and their magnitudes with their signs."""

    @final
    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return heights, widths

    @final
    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return tuple(self.rounds(draws, heights, widths))

    @final
    def apply(self, images: Images, params: Params) -> None:
        for which, magnitudes in params:
            for number, name in enumerate(self.names):
                if name in ENHANCEMENTS:
                    with images.only(which == number):
                        enhance(images, name, self._amounts(name, magnitudes), self.warping.rules)
            self._warp(images, which, magnitudes)

    @final
    def sign(self, draws: Draws, which: Which) -> Values:
        """-1 or 1 for the operations that have a sign."""
        drawing = draws.only(self.signed[which])
        negative = drawing.rand() <= np.float32(0.5) if self.warping.v2 else drawing.randint(0, 2) == 1
        return np.where(self.signed[which] & negative, -1.0, 1.0)

    @final
    def magnitude(self, which: Which, bins: Which, heights: Sizes, widths: Sizes) -> Values:
        if (heights == heights[0]).all() and (widths == widths[0]).all():
            return self.magnitudes(int(heights[0]), int(widths[0]))[which, bins]
        tables = [
            self.magnitudes(height, width) for height, width in zip(heights.tolist(), widths.tolist(), strict=True)
        ]
        return np.array([table[k, j] for table, k, j in zip(tables, which, bins, strict=True)])

    def _amounts(self, name: str, magnitudes: Values) -> Values:
        if name == "Solarize" and self.warping.v2:
            return 255.0 * magnitudes
        return 1.0 + magnitudes if name in _BLENDS else magnitudes

    def _warp(self, images: Images, which: Which, magnitudes: Values) -> None:
        """All maps of a round at once."""
        done = {name: which == number for number, name in enumerate(self.names) if name in _WARPS}
        warped = functools.reduce(np.logical_or, done.values(), np.zeros(len(which), np.bool_))
        if not warped.any():
            return
        batch, warping = len(which), self.warping
        none, zero, one = np.zeros((batch, 2)), np.zeros(batch), np.ones(batch)
        shears, shifts = none.copy(), none.copy()
        for axis, letter in enumerate("XY"):
            shears[:, axis] = np.where(done[f"Shear{letter}"], magnitudes, 0.0)
            shifts[:, axis] = np.where(done[f"Translate{letter}"], np.trunc(magnitudes), 0.0)
        shearing = warping.maps(images, zero, none, one, shears, (0.0, 0.0))
        shifting = warping.maps(images, zero, shifts, one, none, None)
        turning = warping.rotations(images, np.where(done["Rotate"], magnitudes, 0.0), None)
        matrices = np.where((done["ShearX"] | done["ShearY"])[:, None], shearing, shifting)
        with images.only(warped):
            warping.warp(images, np.where(done["Rotate"][:, None], turning, matrices))


@final
@dataclass(frozen=True, kw_only=True)
class RandAugment(_Augment):
    count: int
    bin: int

    def rounds(self, draws: Draws, heights: Sizes, widths: Sizes) -> list[tuple[Which, Values]]:
        rounds = []
        for _ in range(self.count):
            which = draws.randint(0, len(self.names))
            sign = self.sign(draws, which)
            rounds.append((which, sign * self.magnitude(which, np.full_like(which, self.bin), heights, widths)))
        return rounds


@final
@dataclass(frozen=True, kw_only=True)
class TrivialAugmentWide(_Augment):
    bins: int

    def rounds(self, draws: Draws, heights: Sizes, widths: Sizes) -> list[tuple[Which, Values]]:
        which = draws.randint(0, len(self.names))
        bins = np.where(self.sized[which], draws.only(self.sized[which]).randint(0, self.bins), 0)
        sign = self.sign(draws, which)
        return [(which, sign * self.magnitude(which, bins, heights, widths))]


@final
@dataclass(frozen=True, kw_only=True)
class AutoAugment(_Augment):
    """Pairs of operations: which [P, 2], with what probability [P, 2], and by which magnitude [P, 2]."""

    pairs: Which
    chances: NDArray[np.float32]
    bins: Which

    def rounds(self, draws: Draws, heights: Sizes, widths: Sizes) -> list[tuple[Which, Values]]:
        policy = draws.randint(0, len(self.pairs))
        if not self.warping.v2:
            drawn = [draws.rand() for _ in range(2)]
            signs = [draws.randint(0, 2) for _ in range(2)]
        rounds = []
        for k in range(2):
            which, chance = self.pairs[policy, k], self.chances[policy, k]
            if self.warping.v2:
                done = draws.rand() <= chance
                sign = self.sign(draws.only(done), which)
            else:
                done = drawn[k] <= chance
                sign = np.where(self.signed[which] & (signs[k] == 0), -1.0, 1.0)
            magnitudes = self.magnitude(which, self.bins[policy, k], heights, widths)
            rounds.append((np.where(done, which, -1), sign * magnitudes))
        return rounds


def read_rand_augment(transform: Any, place: Place) -> RandAugment:
    label = shown(transform, transform.num_ops, transform.magnitude)
    common = _read(transform, place, label, transform.num_magnitude_bins)
    return RandAugment(**common, count=transform.num_ops, bin=transform.magnitude)


def read_trivial_augment(transform: Any, place: Place) -> TrivialAugmentWide:
    common = _read(transform, place, shown(transform), transform.num_magnitude_bins)
    return TrivialAugmentWide(**common, bins=transform.num_magnitude_bins)


def read_auto_augment(transform: Any, place: Place) -> AutoAugment:
    common = _read(transform, place, shown(transform, transform.policy), 10)
    policies = transform._policies if place.v2 else transform.policies
    names = common["names"]
    return AutoAugment(
        **common,
        pairs=np.array([[names.index(name) for name, _, _ in policy] for policy in policies]),
        chances=np.array([[chance for _, chance, _ in policy] for policy in policies], np.float32),
        bins=np.array([[bin_ or 0 for _, _, bin_ in policy] for policy in policies]),
    )


def _read(transform: Any, place: Place, label: str, bins: int) -> dict[str, Any]:
    warping = read_warping(transform, place)
    space = _space(transform, place.v2, bins, _FIRST_SIZE, _FIRST_SIZE)
    names = tuple(space)
    unknown = [name for name in names if name not in (*ENHANCEMENTS, *_WARPS, "Identity")]
    if unknown or not set(_WARPS) <= set(names):
        raise Unreadable(f"chooses from operations that are not known here: {', '.join(unknown or names)}")
    return {
        "transform": transform,
        "label": label,
        "random": True,
        "exact": warping.rules == "pillow",
        "names": names,
        "signed": np.array([signed for _, signed in space.values()]),
        "sized": np.array([_has_magnitudes(magnitudes) for magnitudes, _ in space.values()]),
        "magnitudes": _Magnitudes(transform, place.v2, bins),
        "warping": warping,
    }


def _space(transform: Any, v2: bool, bins: int, height: int, width: int) -> Space:
    if v2:
        space = transform._AUGMENTATION_SPACE
        return {name: (magnitudes(bins, height, width), signed) for name, (magnitudes, signed) in space.items()}
    of_size = type(transform).__name__ != "TrivialAugmentWide"
    found: Space = (
        transform._augmentation_space(bins, (height, width)) if of_size else transform._augmentation_space(bins)
    )
    return found


def _has_magnitudes(magnitudes: Any) -> bool:
    return magnitudes is not None and magnitudes.ndim > 0


@final
class _Magnitudes:
    """The table [operations, bins] for images of one size; kept, as most images have few sizes."""

    def __init__(self, transform: Any, v2: bool, bins: int) -> None:
        self.transform, self.v2, self.bins = transform, v2, bins
        self._known: dict[tuple[int, int], Values] = {}

    def __call__(self, height: int, width: int) -> Values:
        if (height, width) not in self._known:
            space = _space(self.transform, self.v2, self.bins, height, width)
            table = np.zeros((len(space), self.bins))
            for row, (name, (magnitudes, _)) in zip(table, space.items(), strict=True):
                if _has_magnitudes(magnitudes):
                    row[:] = magnitudes.tolist()
                if name.startswith("Shear"):
                    row[:] = [math.degrees(math.atan(value)) for value in row.tolist()]
            self._known[height, width] = table
        return self._known[height, width]
