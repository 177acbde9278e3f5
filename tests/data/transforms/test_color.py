"""Colour operations change each image exactly as torchvision changes it, and draw what they should."""

import itertools
from typing import Any

import numpy as np
import pytest

from chance import LEAST, frequencies_p, shuffled_p, uniform_p
from replay import drawn, replay, varied, why_as_written
from torchspeed.data.pipeline.images import RULES
from vision import v1, v2

IMAGES, GREY = varied(), varied(28, 28, channels=1)

COLOR = {
    "Grayscale to 1": lambda t: t.Grayscale(1),
    "Grayscale to 3": lambda t: t.Grayscale(3),
    "RandomGrayscale": lambda t: t.RandomGrayscale(0.4),
    "ColorJitter": lambda t: t.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "ColorJitter, far": lambda t: t.ColorJitter((0, 3), (0, 3), (0, 3), (-0.5, 0.5)),
    "ColorJitter, two of four": lambda t: t.ColorJitter(contrast=0.8, hue=0.5),
    "ColorJitter, fixed": lambda t: t.ColorJitter(saturation=(1.4, 1.4)),
    "RandomInvert": lambda t: t.RandomInvert(),
    "RandomPosterize": lambda t: t.RandomPosterize(3, 0.7),
    "RandomSolarize": lambda t: t.RandomSolarize(100.5),
    "RandomEqualize": lambda t: t.RandomEqualize(0.8),
    "RandomAutocontrast": lambda t: t.RandomAutocontrast(0.8),
    "RandomAdjustSharpness, more": lambda t: t.RandomAdjustSharpness(2.3, 0.9),
    "RandomAdjustSharpness, less": lambda t: t.RandomAdjustSharpness(0.3, 0.9),
}


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", COLOR)
def test_pil_images_come_out_bit_for_bit(name: str, library: Any) -> None:
    for images in (IMAGES, GREY):
        result = replay(COLOR[name](library), "pil", images)
        assert result.exact
        assert not result.differences.any()


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", COLOR)
def test_tensors_come_out_within_a_level(name: str, library: Any) -> None:
    """They are the same bits where PyTorch fuses multiplications and additions, as on most processors."""
    for images in (IMAGES, GREY):
        differences = replay(COLOR[name](library), "uint8 tensor", images).differences
        # Of four operations one after the other each may make a level of difference larger.
        assert np.mean(differences > (8 if "far" in name else 1)) < 1e-4
        assert np.mean(differences > 0) < 0.02


def test_images_of_different_sizes_are_changed_where_they_lie() -> None:
    ragged = [IMAGES[number, : 20 + number, : 32 - number // 2].copy() for number in range(12)]
    before = [image.copy() for image in ragged]
    chain = v1.Compose([v1.RandomHorizontalFlip(), v1.ColorJitter(0.4, 0.4, 0.4, 0.1), v1.RandomEqualize()])
    assert not replay(chain, "pil", ragged).differences.any()
    assert all((image == unchanged).all() for image, unchanged in zip(ragged, before, strict=True))


@pytest.mark.parametrize("kernel_size", [3, (5, 9), 23])
@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("holds", ["pil", "uint8 tensor"])
def test_a_blur_is_within_a_level(kernel_size: Any, library: Any, holds: Any) -> None:
    result = replay(library.GaussianBlur(kernel_size, (0.1, 3.0)), holds, IMAGES)
    assert result.differences.max() <= 1
    assert np.mean(result.differences > 0) < 1e-3


def test_the_order_of_a_jitter_is_any_and_its_factors_are_uniform() -> None:
    order, factors = drawn(v1.ColorJitter(0.4, (0.5, 2.0), 0.3, 0.1))
    assert shuffled_p(order) > LEAST
    for column, (low, high) in enumerate([(0.6, 1.4), (0.5, 2.0), (0.7, 1.3), (-0.1, 0.1)]):
        assert uniform_p(factors[:, column], low, high) > LEAST


def test_the_width_of_a_blur_is_uniform() -> None:
    (sigmas,) = drawn(v2.GaussianBlur(5, (0.2, 1.9)))
    assert uniform_p(sigmas, 0.2, 1.9) > LEAST


@pytest.mark.parametrize("transform", [v1.RandomGrayscale(0.3), v2.RandomInvert(0.3)])
def test_a_probability_is_met(transform: Any) -> None:
    (where,) = drawn(transform)
    assert frequencies_p(where, [0.7, 0.3]) > LEAST


def test_nothing_is_done_to_floats() -> None:
    assert "works on floats" in why_as_written(v1.ColorJitter(0.4), "float tensor")
    assert "raises an error on tensors" in why_as_written(v1.RandomSolarize(300), "uint8 tensor")
    assert "0 bits" in why_as_written(v2.RandomPosterize(0))


def test_each_set_of_rules_is_one_of_its_own() -> None:
    """If two sets of rules gave the same pixels, nobody would notice that the wrong one is followed."""
    jitter = {
        "pillow": replay(v1.ColorJitter(hue=0.3, saturation=0.9), "pil", IMAGES),
        "tensor": replay(v1.ColorJitter(hue=0.3, saturation=0.9), "uint8 tensor", IMAGES),
        "tensor v2": replay(v2.ColorJitter(hue=0.3, saturation=0.9), "uint8 tensor", IMAGES),
    }
    assert tuple(jitter) == RULES
    for one, other in itertools.combinations(jitter.values(), 2):
        assert any((a != b).any() for a, b in zip(one.ours, other.ours, strict=True))
