"""A batch of augmented images is, bit for bit, what one image at a time gives."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from torchspeed.data.flips import alternating_flips, random_flips
from torchspeed.data.images import ImageBatches, channel_statistics
from torchspeed.data.random import Keys, integers, sample_keys
from torchspeed.errors import DataError

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (40, 11, 8, 3), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.arange(40) % 7
INDICES = np.array([3, 39, 0, 3, 17, 8, 25, 31, 12])


def one_image(dataset: ImageBatches, index: int, key: Keys) -> Tensor:
    """What a map-style dataset would do: pad, crop, flip, normalise and cut out, one image at a time."""
    image = IMAGES[index].numpy()
    height, width, _ = image.shape
    reach = dataset.translate
    mode = "reflect" if dataset.padding == "reflect" else "constant"
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode=mode)
    if reach:
        top, left = (int(integers(key, stream, -reach, reach + 1)[0]) + reach for stream in (0, 1))
        padded = padded[top : top + height, left : left + width]
    flips = {
        "none": False,
        "random": random_flips(key)[0],
        "alternating": alternating_flips(key, np.array([index]))[0],
    }
    if flips[dataset.flip]:
        padded = padded[:, ::-1]
    result = torch.from_numpy(padded.copy()).permute(2, 0, 1).to(torch.float32).div(255)
    result = (result - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    if dataset.cutout:
        top, left = (
            int(integers(key, stream, 0, side)[0]) - dataset.cutout // 2 for stream, side in ((3, height), (4, width))
        )
        result[:, max(top, 0) : top + dataset.cutout, max(left, 0) : left + dataset.cutout] = 0.0
    return result


@pytest.mark.parametrize("translate", [0, 2, 7])
@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("flip", ["none", "random", "alternating"])
@pytest.mark.parametrize("cutout", [0, 3, 30])
def test_a_batch_equals_its_images_one_by_one_bit_for_bit(translate, padding, flip, cutout) -> None:
    dataset = ImageBatches(
        IMAGES, LABELS, mean=MEAN, std=STD, translate=translate, padding=padding, flip=flip, cutout=cutout
    )
    for epoch in range(3):
        keys = sample_keys(5, epoch, INDICES)
        images, labels = dataset.batch(INDICES, keys)
        alone = torch.stack([one_image(dataset, int(i), keys[n : n + 1]) for n, i in enumerate(INDICES)])
        assert torch.equal(images.contiguous().view(torch.int32), alone.view(torch.int32))
        assert torch.equal(labels, LABELS[INDICES])


def test_images_are_channels_last_without_a_copy() -> None:
    images, _ = ImageBatches(IMAGES, LABELS, mean=MEAN, std=STD, translate=2, flip="random").batch(
        INDICES, sample_keys(0, 0, INDICES)
    )
    assert images.shape == (9, 3, 11, 8)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_dataset_itself_is_never_written_to() -> None:
    before = IMAGES.clone()
    dataset = ImageBatches(IMAGES, LABELS, mean=MEAN, std=STD, translate=3, padding="zero", flip="random", cutout=4)
    dataset.batch(INDICES, sample_keys(0, 0, INDICES))
    assert torch.equal(IMAGES, before)


def test_a_sample_is_the_same_whichever_batch_it_is_in() -> None:
    dataset = ImageBatches(IMAGES, LABELS, mean=MEAN, std=STD, translate=2, flip="alternating", cutout=2)
    everything = np.arange(40)
    whole, _ = dataset.batch(everything, sample_keys(1, 4, everything))
    part, _ = dataset.batch(INDICES, sample_keys(1, 4, INDICES))
    assert torch.equal(whole[INDICES], part)


@pytest.mark.parametrize("seed", [0, 1, 2, -1, 12345])
def test_alternating_flips_turn_every_image_over_at_every_epoch(seed: int) -> None:
    indices = np.arange(1000)
    epochs = [alternating_flips(sample_keys(seed, epoch, indices), indices) for epoch in range(5)]
    for before, after in pairwise(epochs):
        assert (before != after).all()
    assert 430 < epochs[0].sum() < 570, "the first one is a fair coin: 500 ± 4.4 standard deviations"


def test_random_flips_are_independent_between_epochs() -> None:
    indices = np.arange(1000)
    first, second = (random_flips(sample_keys(0, epoch, indices)) for epoch in (0, 1))
    assert 430 < first.sum() < 570
    assert 430 < (first != second).sum() < 570


def test_translations_are_uniform_and_reach_both_ends() -> None:
    ramp = torch.arange(9, dtype=torch.uint8).expand(2000, 9, 9)[..., None].contiguous()
    dataset = ImageBatches(ramp, torch.zeros(2000), mean=(0.0,), std=(1 / 255,), translate=2, padding="zero")
    indices = np.arange(2000)
    images, _ = dataset.batch(indices, sample_keys(0, 0, indices))
    counts = (images[:, 0, 4, 4].round().long() - 4 + 2).bincount(minlength=5)
    assert counts.min() > 320, "400 expected of each of -2 … 2"
    assert counts.max() < 480


def test_channel_statistics_are_those_of_the_pixels() -> None:
    mean, std = channel_statistics(IMAGES)
    levels = IMAGES.to(torch.float64).flatten(0, 2) / 255
    assert mean == pytest.approx(levels.mean(0).tolist(), rel=1e-12)
    assert std == pytest.approx(levels.std(0, correction=0).tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"images": IMAGES.float()}, "uint8"),
        ({"images": IMAGES[0]}, r"uint8 \[N, H, W, C\]"),
        ({"labels": LABELS[:-1]}, "40 images but labels of shape"),
        ({"mean": (0.5,)}, "3 numbers each"),
        ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
        ({"translate": 8}, "translate=8"),
        ({"flip": "both"}, "flip='both'"),
        ({"padding": "edge"}, "padding='edge'"),
        ({"cutout": -1}, "cutout=-1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, finding: str) -> None:
    arguments = {"images": IMAGES, "labels": LABELS, "mean": MEAN, "std": STD} | change
    with pytest.raises(DataError, match=finding):
        ImageBatches(arguments.pop("images"), arguments.pop("labels"), **arguments)
