"""Automatic augmentation chooses, and does, what torchvision's chooses and does."""

from typing import Any

import numpy as np
import pytest

from chance import LEAST, frequencies_p
from replay import drawn, replay, varied, why_as_written
from vision import v1, v2

IMAGES, GREY = varied(), varied(28, 28, channels=1)
BILINEAR = v1.InterpolationMode.BILINEAR

AUGMENTS = {
    "RandAugment": lambda t: t.RandAugment(),
    "RandAugment, strong": lambda t: t.RandAugment(3, 20, fill=128, interpolation=BILINEAR),
    "TrivialAugmentWide": lambda t: t.TrivialAugmentWide(),
    "TrivialAugmentWide, bilinear": lambda t: t.TrivialAugmentWide(interpolation=BILINEAR),
    "AutoAugment": lambda t: t.AutoAugment(),
    "AutoAugment of CIFAR-10": lambda t: t.AutoAugment(v1.AutoAugmentPolicy.CIFAR10),
    "AutoAugment of SVHN": lambda t: t.AutoAugment(v1.AutoAugmentPolicy.SVHN),
}


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", AUGMENTS)
def test_pil_images_come_out_bit_for_bit(name: str, library: Any) -> None:
    for epoch in range(4):
        result = replay(AUGMENTS[name](library), "pil", GREY if epoch == 3 else IMAGES, epoch)
        assert result.exact
        assert not result.differences.any()


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", AUGMENTS)
def test_tensors_come_out_within_a_level(name: str, library: Any) -> None:
    """But for a pixel in ten thousand, where another processor rounds a coordinate, or a level at a threshold."""
    for epoch in range(4):
        result = replay(AUGMENTS[name](library), "uint8 tensor", GREY if epoch == 3 else IMAGES, epoch)
        assert np.mean(result.differences > 1) < 1e-4


def test_images_of_different_sizes_have_magnitudes_of_their_own() -> None:
    ragged = [IMAGES[number, : 20 + number].copy() for number in range(12)]
    assert not replay(v1.RandAugment(3, 25), "pil", ragged).differences.any()


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
def test_operations_magnitudes_and_signs_are_equally_frequent(library: Any) -> None:
    ((which, magnitudes),) = drawn(library.TrivialAugmentWide())
    assert frequencies_p(which, [1 / 14] * 14) > LEAST
    turned = magnitudes[which == 5]
    bins = np.rint(turned / (135 / 30)).astype(np.int64) + 30
    assert frequencies_p(bins, [1 / 62] * 30 + [1 / 31] + [1 / 62] * 30) > LEAST
    assert {len(drawn(library.RandAugment(count), 10)) for count in (0, 1, 4)} == {0, 1, 4}


def test_a_space_of_other_operations_is_left_as_it_is_written() -> None:
    transform = v1.TrivialAugmentWide()
    space = transform._augmentation_space(31)
    transform._augmentation_space = lambda bins: {**space, "Swirl": space["Rotate"]}
    assert "Swirl" in why_as_written(transform)
    assert "torchvision's AugMix" in why_as_written(v2.AugMix())
