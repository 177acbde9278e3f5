"""The compiled pipeline gives the pixels that the user's own code gives for the same draws, for every operation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchspeed.data.loader import OrderedLoader
from torchspeed.data.pipeline.compile import compile_dataset
from torchspeed.data.pipeline.compiled import Lowered
from torchspeed.data.pipeline.settings import Settings
from vision import MEAN, STD, Pictures, pictures, v1, v2

IMAGES = pictures(12, 32, 40)
GREY = pictures(12, 28, 28, channels=1)

NEAREST, BICUBIC = v1.InterpolationMode.NEAREST, v1.InterpolationMode.BICUBIC

# On PIL images: every one of them must be the same bit for bit.
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "CenterCrop": lambda t: t.CenterCrop(24),
    "CenterCrop larger": lambda t: t.CenterCrop((37, 45)),
    "RandomCrop": lambda t: t.RandomCrop((20, 30)),
    "RandomCrop padded": lambda t: t.RandomCrop(32, padding=4),
    "RandomCrop padded, filled": lambda t: t.RandomCrop(32, padding=(1, 2, 3, 4), fill=(9, 200, 30)),
    "RandomCrop reflect": lambda t: t.RandomCrop(32, padding=4, padding_mode="reflect"),
    "RandomCrop edge": lambda t: t.RandomCrop(32, padding=(3, 5), padding_mode="edge"),
    "RandomCrop symmetric": lambda t: t.RandomCrop(32, padding=4, padding_mode="symmetric"),
    "RandomCrop if needed": lambda t: t.RandomCrop(48, pad_if_needed=True, fill=7),
    "RandomHorizontalFlip": lambda t: t.RandomHorizontalFlip(),
    "RandomVerticalFlip": lambda t: t.RandomVerticalFlip(0.3),
    "Pad": lambda t: t.Pad((1, 2, 3, 4), fill=(1, 2, 3)),
    "Pad reflect": lambda t: t.Pad(5, padding_mode="reflect"),
    "Resize up": lambda t: t.Resize((70, 50)),
    "Resize down": lambda t: t.Resize((17, 11)),
    "Resize shorter side": lambda t: t.Resize(24),
    "Resize shorter side, longest": lambda t: t.Resize(30, max_size=33),
    "Resize nearest": lambda t: t.Resize((45, 21), interpolation=NEAREST),
    "Resize bicubic": lambda t: t.Resize((21, 45), interpolation=BICUBIC),
    "RandomResizedCrop": lambda t: t.RandomResizedCrop(24),
    "RandomResizedCrop bicubic": lambda t: t.RandomResizedCrop((24, 16), scale=(0.3, 1.0), interpolation=BICUBIC),
    "RandomResizedCrop at the centre": lambda t: t.RandomResizedCrop(24, scale=(0.9, 1.0), ratio=(5.0, 6.0)),
    "Grayscale": lambda t: t.Grayscale(3),
    "RandomGrayscale": lambda t: t.RandomGrayscale(0.5),
    "ColorJitter": lambda t: t.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "ColorJitter, some of it": lambda t: t.ColorJitter(contrast=0.8, hue=0.5),
    "RandomRotation": lambda t: t.RandomRotation(30),
    "RandomAffine": lambda t: t.RandomAffine(15, translate=(0.1, 0.2), scale=(0.8, 1.2), shear=8, fill=50),
    "GaussianBlur": lambda t: t.GaussianBlur(5, (0.1, 2.0)),
    "RandomApply": lambda t: t.RandomApply([t.ColorJitter(0.5, 0.5), t.RandomHorizontalFlip()], 0.6),
    "RandAugment": lambda t: t.RandAugment(),
    "TrivialAugmentWide": lambda t: t.TrivialAugmentWide(),
}
NOT_QUITE = {"GaussianBlur"}  # float arithmetic in another order: one level of 255


def batches(dataset: Any, lowered: Any) -> Any:
    """(compiled, as written) of two epochs."""
    ours, theirs = (OrderedLoader(data, 7, seed=5, shuffle=True) for data in (lowered, dataset))
    for epoch in (0, 1):
        yield from zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True)


def check(dataset: Any, levels: int = 0, std: float = min(STD), **options: Any) -> Lowered:
    """Compiled and as written are the same; ``levels``: of 255 that they may differ by."""
    lowered = compile_dataset(dataset, Settings(placement="none", **options))
    assert isinstance(lowered, Lowered), lowered.rows
    for ours, theirs in batches(dataset, lowered):
        assert torch.equal(ours[1], theirs[1])
        assert ours[0].shape == theirs[0].shape
        assert ours[0].dtype == theirs[0].dtype
        if levels:
            assert (ours[0] - theirs[0]).abs().max() <= levels * 1.01 / 255 / std
        else:
            assert torch.equal(ours[0], theirs[0])
    return lowered


def after(transforms: Any, *operations: Any) -> Any:
    return transforms.Compose([*operations, v1.ToTensor(), v1.Normalize(MEAN, STD)])


@pytest.mark.parametrize("transforms", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_pil_images(name: str, transforms: Any) -> None:
    check(Pictures(IMAGES, after(transforms, OPERATIONS[name](transforms))), levels=name in NOT_QUITE)


def test_the_later_of_equal_fillings_lies_on_top() -> None:
    pads = [v1.Pad(2, fill=0), v1.Pad(2, fill=255), v1.Pad(2, fill=0)]
    check(Pictures(IMAGES, after(v1, v1.RandomHorizontalFlip(), *pads)))


def test_random_choice_replays_pythons_generator() -> None:
    choice = v1.RandomChoice([v1.RandomHorizontalFlip(1.0), v1.ColorJitter(0.9), v1.RandomVerticalFlip(1.0)])
    check(Pictures(IMAGES, after(v1, choice)))
    choice = v1.RandomChoice([v1.RandomHorizontalFlip(1.0), v1.ColorJitter(0.9)], p=[0.2, 0.8])
    check(Pictures(IMAGES, after(v1, choice)))


ON_TENSORS = ["CenterCrop", "RandomCrop padded", "RandomCrop reflect", "RandomHorizontalFlip", "Pad"]
RESAMPLED = {"RandomResizedCrop", "Resize up"}


@pytest.mark.parametrize("name", [*ON_TENSORS, *sorted(RESAMPLED)])
def test_an_operation_on_byte_tensors(name: str) -> None:
    end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    chain = v2.Compose([v2.ToImage(), OPERATIONS[name](v2), *end])
    check(Pictures(IMAGES, chain), levels=name in RESAMPLED)


MOVING = ["CenterCrop larger", "RandomCrop padded", "RandomCrop reflect", "RandomVerticalFlip", "Pad reflect"]


@pytest.mark.parametrize("name", MOVING)
def test_moving_pixels_of_floats(name: str) -> None:
    """What is filled in after Normalize is 0 and not black."""
    for transforms in (v1, v2):
        chain = [v1.ToTensor(), transforms.Normalize(MEAN, STD), OPERATIONS[name](transforms)]
        check(Pictures(IMAGES, transforms.Compose([*chain, v1.RandomHorizontalFlip()])))


@pytest.mark.parametrize("transforms", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("value", [0, 0.5, (0.1, 0.2, 0.3)])
def test_erasing_before_and_after_normalize(transforms: Any, value: Any) -> None:
    erasing = transforms.RandomErasing(0.7, value=value)
    normalize = transforms.Normalize(MEAN, STD)
    for chain in ([v1.ToTensor(), erasing, normalize], [v1.ToTensor(), normalize, erasing]):
        check(Pictures(IMAGES, transforms.Compose([transforms.RandomCrop(32, padding=2), *chain])))


CONVERSIONS = {
    "ToTensor": v1.ToTensor(),
    "PILToTensor": v1.PILToTensor(),
    "half": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float16, scale=True)]),
    "bfloat16": v1.Compose([v1.PILToTensor(), v1.ConvertImageDtype(torch.bfloat16)]),
    "unscaled": v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32)]),
    "Normalize one": v1.Compose([v1.ToTensor(), v1.Normalize((0.5,), (0.5,))]),
}


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("images", [IMAGES, GREY], ids=["colour", "grey"])
def test_conversions_are_exact(name: str, images: Any) -> None:
    check(Pictures(images, CONVERSIONS[name]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_another_dtype_and_layout_is_what_converting_the_result_gives(dtype: torch.dtype) -> None:
    dataset = Pictures(IMAGES, after(v1, v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip()))
    lowered = compile_dataset(dataset, Settings(placement="none", dtype=dtype, channels_last=True))
    for ours, theirs in batches(dataset, lowered):
        assert ours[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(ours[0], theirs[0].to(dtype))


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_chains_of_operations(data: st.DataObject) -> None:
    """200 chains of up to four operations, of torchvision v1 or v2, with or without an erasure at the end."""
    transforms = data.draw(st.sampled_from([v1, v2]))
    names = data.draw(st.lists(st.sampled_from([n for n in OPERATIONS if n not in NOT_QUITE]), min_size=1, max_size=4))
    names = [name for name in names if name != "RandomResizedCrop at the centre"]
    operations = [OPERATIONS[name](transforms) for name in names]
    # So that no crop is larger than what is left, images are brought back to one size before each of them.
    chain = [part for operation in operations for part in (transforms.Resize((48, 48)), operation)]
    end = [v1.ToTensor(), transforms.Normalize(MEAN, STD)]
    if data.draw(st.booleans()):
        end.append(transforms.RandomErasing(0.5))
    check(Pictures(IMAGES[:7], transforms.Compose([*chain, *end])))


def test_the_mapping_from_draws_to_pixels_can_fail() -> None:
    """The comparison sees a pipeline whose draws are another epoch's."""
    dataset = Pictures(IMAGES, after(v1, v1.RandomCrop(32, padding=4)))
    lowered = compile_dataset(dataset, Settings())
    ours, theirs = (OrderedLoader(data, 12, seed=seed) for seed, data in ((0, lowered), (1, dataset)))
    assert not torch.equal(ours.batch(0, 0)[0], theirs.batch(0, 0)[0])
