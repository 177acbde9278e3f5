"""Transforms that hold others do for each sample what they do for it as written; what is unknown says why."""

from typing import Any

import pytest
import torch
from torch import nn

from chance import LEAST, frequencies_p, shuffled_p
from replay import drawn, replay, varied, why_as_written
from torchspeed.data.pipeline.operation import AsWritten, Operation, Pointwise
from torchspeed.data.transforms.chain import read_chain
from vision import v1, v2

IMAGES = varied()

HOLDING = {
    "RandomApply": lambda t: t.RandomApply([t.ColorJitter(0.5, 0.5), t.RandomHorizontalFlip()], 0.6),
    "RandomApply, flips alone": lambda t: t.RandomApply([t.RandomVerticalFlip(), t.RandomHorizontalFlip()]),
    "RandomApply of modules": lambda t: t.RandomApply(nn.ModuleList([t.RandomRotation(20)]), 0.5),
    "RandomApply within": lambda t: t.RandomApply([t.RandomApply([t.RandomInvert()]), t.RandomGrayscale(0.5)], 0.7),
    "RandomApply before more": lambda t: t.Compose([t.RandomApply([t.RandomRotation(20)]), t.ColorJitter(0.4)]),
    "RandomChoice": lambda t: t.RandomChoice([t.RandomInvert(), t.RandomRotation(9), t.RandomEqualize(1.0)]),
    "RandomChoice, weighted": lambda t: t.RandomChoice([t.RandomRotation(9), t.RandomGrayscale(1.0)], p=[0.1, 0.9]),
    "RandomChoice of chains": lambda t: t.RandomChoice(
        [t.Compose([t.ColorJitter(0.5), t.RandomHorizontalFlip()]), t.RandomApply([t.RandomSolarize(99)])]
    ),
    "RandomOrder": lambda t: t.RandomOrder([t.ColorJitter(0.5), t.RandomSolarize(99), t.RandomRotation(9)]),
    "Sequential": lambda t: nn.Sequential(t.RandomInvert(), nn.Identity(), t.RandomGrayscale(0.5)),
}


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", HOLDING)
def test_pil_images_come_out_bit_for_bit(name: str, library: Any) -> None:
    for epoch in range(2):
        result = replay(HOLDING[name](library), "pil", IMAGES, epoch)
        assert result.exact
        assert not result.differences.any()


def test_probabilities_and_weights_are_met() -> None:
    where, _ = drawn(v1.RandomApply([v1.RandomInvert()], 0.2))
    assert frequencies_p(where, [0.8, 0.2]) > LEAST
    choices = [v1.RandomInvert(), v1.RandomRotation(9), v1.RandomEqualize()]
    for library in (v1, v2):
        chosen, _ = drawn(library.RandomChoice(choices, p=[0.5, 0.2, 0.3]))
        assert frequencies_p(chosen, [0.5, 0.2, 0.3]) > LEAST
        order, _ = drawn(library.RandomOrder(choices))
        assert shuffled_p(order) > LEAST


class Crop(v1.RandomCrop):
    """A subclass, which may do anything."""


class ToTensor:
    """Of the same name as torchvision's."""

    def __call__(self, image: Any) -> Any:
        return image


def whiten(image: Any) -> Any:
    return image


def test_what_is_not_known_to_the_letter_runs_as_it_is_written() -> None:
    assert why_as_written(Crop(8)) == "a subclass of torchvision's RandomCrop, which may do anything else"
    assert why_as_written(ToTensor()) == "your own code"
    assert why_as_written(whiten) == "your own code"
    assert why_as_written(v1.Lambda(whiten)) == "calls your own function"
    assert why_as_written(v1.RandomPerspective()) == "torchvision's RandomPerspective is not compiled"
    assert why_as_written(v1.RandomInvert(), "uint8 array") == "is given an array"
    hooked = v1.RandomInvert()
    hooked.register_forward_hook(lambda module, arguments, result: result)
    assert why_as_written(hooked) == "has hooks, which are your own code"


def test_what_a_transform_holds_must_be_lowered_and_leave_sizes_alone() -> None:
    assert why_as_written(v1.RandomApply([whiten])) == "holds whiten: your own code"
    assert "sizes of images differ" in why_as_written(v1.RandomApply([v1.RandomCrop(20)]))
    assert "sizes of images differ" in why_as_written(v2.RandomChoice([v2.Resize(20), v2.RandomInvert()]))
    assert "some are not" in why_as_written(v1.RandomApply([v1.ToTensor()]))
    assert "numbers of channels differ" in why_as_written(v1.RandomApply([v1.Grayscale(1)]))


def test_a_chain_is_read_with_what_each_transform_is_given() -> None:
    chain = v2.Compose([v2.ToImage(), [v2.RandomInvert(), v2.Grayscale(1)], v2.ToDtype(torch.float32, scale=True)])
    steps = read_chain(v1.Compose([chain, v2.ColorJitter(0.4), v2.Normalize([0.5], [0.5]), whiten]), "pil", 3)
    kinds = [type(step) for step in steps if not isinstance(step, Operation)]
    assert kinds == [Pointwise, Pointwise, AsWritten, Pointwise, AsWritten]
    assert steps[4].label == "ColorJitter"  # of floats
    assert [step.label for step in steps[1:3]] == ["RandomInvert(p=0.5)", "Grayscale(1)"]
    assert read_chain(None, "pil", 3) == []
