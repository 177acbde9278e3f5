"""Rotations and affine maps move each pixel to where torchvision moves it."""

from typing import Any

import numpy as np
import pytest

from chance import LEAST, uniform_p
from replay import drawn, replay, varied, why_as_written
from vision import v1, v2

IMAGES, GREY = varied(), varied(28, 28, channels=1)
BILINEAR = v1.InterpolationMode.BILINEAR

MAPS = {
    "RandomRotation": lambda t: t.RandomRotation(30),
    "RandomRotation, bilinear": lambda t: t.RandomRotation((-100, 100), interpolation=BILINEAR),
    "RandomRotation about a point": lambda t: t.RandomRotation(45, center=(3, 20.5), fill=99),
    "RandomRotation by 0": lambda t: t.RandomRotation((0, 0)),
    "RandomRotation by 90": lambda t: t.RandomRotation((90, 90), interpolation=BILINEAR),
    "RandomRotation by 180": lambda t: t.RandomRotation((180, 180)),
    "RandomAffine": lambda t: t.RandomAffine(15, translate=(0.1, 0.2), scale=(0.8, 1.2), shear=8),
    "RandomAffine, bilinear": lambda t: t.RandomAffine(15, (0.1, 0.2), (0.8, 1.2), (1, 8, -9, 9), BILINEAR, fill=200),
    "RandomAffine, shifts only": lambda t: t.RandomAffine(0, translate=(0.5, 0.5), fill=7),
    "RandomAffine, scales only": lambda t: t.RandomAffine(0, scale=(0.3, 3.0), center=(0, 0)),
    "RandomAffine, one shear": lambda t: t.RandomAffine(0, shear=(-30, 30)),
    "RandomAffine, beyond fixed point": lambda t: t.RandomAffine(20, scale=(0.0004, 0.0006)),
}


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", MAPS)
def test_pil_images_come_out_bit_for_bit(name: str, library: Any) -> None:
    for images in (IMAGES, GREY):
        result = replay(MAPS[name](library), "pil", images)
        assert result.exact
        assert not result.differences.any()


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", MAPS)
def test_tensors_come_out_within_a_level(name: str, library: Any) -> None:
    """But for a pixel in ten thousand, whose coordinate another processor rounds to the one beside it."""
    for images in (IMAGES, GREY):
        assert np.mean(replay(MAPS[name](library), "uint8 tensor", images).differences > 1) < 1e-4


@pytest.mark.parametrize("holds", ["pil", "uint8 tensor"])
@pytest.mark.parametrize("fill", [None, 120, (1, 2, 250)])
def test_what_comes_from_outside_is_filled(fill: Any, holds: Any) -> None:
    for library in (v1, v2):
        for interpolation in (v1.InterpolationMode.NEAREST, BILINEAR):
            transform = library.RandomAffine(40, shear=20, interpolation=interpolation, fill=fill)
            assert replay(transform, holds, IMAGES).differences.max() <= 1


def test_parameters_are_uniform() -> None:
    (degrees,) = drawn(v1.RandomRotation((-10, 30)))
    assert uniform_p(degrees, -10, 30) > LEAST
    degrees, shifts, scales, shears = drawn(v2.RandomAffine(20, (0.25, 0.5), (0.5, 2.0), (1, 2, 3, 5)), width=400)
    assert uniform_p(degrees, -20, 20) > LEAST
    assert uniform_p(shifts[:, 0] + np.random.default_rng(0).random(len(shifts)) - 0.5, -100, 100) > LEAST
    assert uniform_p(scales, 0.5, 2.0) > LEAST
    assert uniform_p(shears[:, 0], 1, 2) > LEAST
    assert uniform_p(shears[:, 1], 3, 5) > LEAST


def test_what_is_not_lowered_says_why() -> None:
    assert "different sizes" in why_as_written(v1.RandomRotation(10, expand=True))
    bicubic = v2.RandomRotation(10, interpolation=v1.InterpolationMode.BICUBIC)
    assert "bicubic" in why_as_written(bicubic)
    assert "images of 1 channels" in why_as_written(v1.RandomAffine(10, fill=(1, 2, 3)), channels=1)
