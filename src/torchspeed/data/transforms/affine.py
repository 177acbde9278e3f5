"""Turn, shift, scale and shear: ``RandomRotation``, ``RandomAffine``, and the maps of automatic augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.kernels.matrices import affine_matrices, rotation_matrices
from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Fill, Images, Rules
from torchspeed.data.pipeline.operation import Operation, Params, Sizes, Unreadable
from torchspeed.data.transforms.reading import Place, filter_name, one_fill, rules_of, shown

Values = NDArray[np.float64]  # [B], or [B, 2] for x and y
Centre = tuple[float, float] | None  # x and y in pixels; None: the middle of the image


@dataclass(frozen=True)
class Warping:
    """How images are warped: what all of these transforms have in common."""

    filter: str
    fill: Fill | None
    rules: Rules
    v2: bool

    def rotations(self, images: Images, degrees: Values, centre: Centre) -> Values:
        """The matrices [B, 6] that turn images by ``degrees`` [B], counter-clockwise."""
        if self.rules != "pillow":
            if self.v2:
                degrees = degrees % 360
            none = np.zeros((len(degrees), 2))
            return self.maps(images, -degrees, none, np.ones(len(degrees)), none, centre)
        matrices = np.empty((len(degrees), 6))
        rotation_matrices(degrees, self._centres(images, centre), matrices)
        return matrices

    def maps(
        self, images: Images, degrees: Values, shifts: Values, scales: Values, shears: Values, centre: Centre
    ) -> Values:
        """The matrices [B, 6] that turn (clockwise, degrees [B]), shift [B, 2], scale [B] and shear [B, 2] images."""
        matrices = np.empty((len(degrees), 6))
        affine_matrices(degrees, shifts, scales, shears, self._centres(images, centre), self.v2, matrices)
        return matrices

    def warp(self, images: Images, matrices: Values) -> None:
        images.warp(matrices, self.filter, self.fill, self.rules)

    def _centres(self, images: Images, centre: Centre) -> Values:
        """[B, 2], from the corner of the image for Pillow and from its middle for tensors."""
        middle = np.stack([images.widths * 0.5, images.heights * 0.5], axis=1)
        if self.rules == "pillow":
            return middle if centre is None else np.tile(np.array(centre, np.float64), (len(middle), 1))
        return np.zeros_like(middle) if centre is None else np.array(centre, np.float64) - middle


def read_warping(transform: Any, place: Place) -> Warping:
    rules, filter_ = rules_of(place), filter_name(transform.interpolation)
    if rules == "pillow" and filter_ == "nearest-exact":
        filter_ = "nearest"
    if filter_ not in ("nearest", "bilinear"):
        raise Unreadable(f"interpolation={filter_}; nearest and bilinear are lowered")
    fill = None if transform.fill is None and rules != "pillow" else one_fill(transform.fill, place)
    if fill is not None and len(fill.values) not in (1, place.channels):
        raise Unreadable(f"fill={transform.fill} for images of {place.channels} channels")
    return Warping(filter_, fill, rules, place.v2)


@final
@dataclass(frozen=True, kw_only=True)
class RandomRotation(Operation):
    degrees: tuple[float, float]
    centre: Centre
    warping: Warping

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return heights, widths

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return (draws.uniform(*self.degrees).astype(np.float64),)

    def apply(self, images: Images, params: Params) -> None:
        self.warping.warp(images, self.warping.rotations(images, params[0], self.centre))


def read_random_rotation(transform: Any, place: Place) -> RandomRotation:
    if transform.expand:
        raise Unreadable("expand=True gives images of different sizes")
    warping = read_warping(transform, place)
    low, high = transform.degrees
    return RandomRotation(
        transform=transform,
        label=shown(transform, (low, high), warping.filter),
        random=True,
        exact=warping.rules == "pillow",
        degrees=(low, high),
        centre=_centre(transform.center),
        warping=warping,
    )


@final
@dataclass(frozen=True, kw_only=True)
class RandomAffine(Operation):
    """degrees, scale: ranges. translate: the greatest shifts, in parts of width and height. shear: ranges, x and y."""

    degrees: tuple[float, float]
    translate: tuple[float, float] | None
    scale: tuple[float, float] | None
    shear: Sequence[float]
    centre: Centre
    warping: Warping

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return heights, widths

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        batch = len(heights)
        shifts, scales, shears = np.zeros((batch, 2)), np.ones(batch), np.zeros((batch, 2))
        degrees = draws.uniform(*self.degrees).astype(np.float64)
        if self.translate is not None:
            for k, reach in enumerate((self.translate[0] * widths, self.translate[1] * heights)):
                shifts[:, k] = np.rint(draws.uniform(-reach, reach))  # half to even, as Python rounds
        if self.scale is not None:
            scales[:] = draws.uniform(*self.scale)
        for k in range(len(self.shear) // 2):
            shears[:, k] = draws.uniform(self.shear[2 * k], self.shear[2 * k + 1])
        return degrees, shifts, scales, shears

    def apply(self, images: Images, params: Params) -> None:
        degrees, shifts, scales, shears = params
        self.warping.warp(images, self.warping.maps(images, degrees, shifts, scales, shears, self.centre))


def read_random_affine(transform: Any, place: Place) -> RandomAffine:
    warping = read_warping(transform, place)
    low, high = transform.degrees
    options = {name: getattr(transform, name) for name in ("translate", "scale", "shear")}
    return RandomAffine(
        transform=transform,
        label=shown(transform, (low, high), **options),
        random=True,
        exact=warping.rules == "pillow",
        degrees=(low, high),
        translate=None if transform.translate is None else tuple(transform.translate),
        scale=None if transform.scale is None else tuple(transform.scale),
        shear=tuple(transform.shear or ()),
        centre=_centre(transform.center),
        warping=warping,
    )


def _centre(center: Sequence[float] | None) -> Centre:
    return None if center is None else (float(center[0]), float(center[1]))
