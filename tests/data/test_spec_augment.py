"""Masks are where the keys say, as wide as they may be, and hide what was there behind the mean."""

import numpy as np
import pytest
import torch

from torchspeed.data.random import sample_keys
from torchspeed.data.spec_augment import SpecAugment
from torchspeed.errors import DataError

MELS, FRAMES = 20, 60
MASKS = SpecAugment(frequency_width=6, time_width=12)


def keys(count: int, epoch: int = 0) -> np.ndarray:
    return sample_keys(0, epoch, np.arange(count))


def spectrograms(count: int) -> torch.Tensor:
    return torch.randn(count, MELS, FRAMES, generator=torch.Generator().manual_seed(0)) - 5


def test_masked_is_the_mean_and_everything_else_is_untouched() -> None:
    before = spectrograms(50)
    after = MASKS(before, keys(50))
    bands, moments = MASKS.masks(keys(50), MELS, FRAMES)
    assert 0 < bands.sum() < bands.size / 2
    assert 0 < moments.sum() < moments.size / 2
    masked = torch.from_numpy(bands[:, :, None] | moments[:, None, :])
    assert torch.equal(after[~masked], before[~masked])
    assert torch.equal(after[masked], before.mean((1, 2), keepdim=True).expand_as(before)[masked])


def test_the_host_masks_the_same_in_place() -> None:
    before = spectrograms(50)
    in_place = before.clone().numpy()
    MASKS.on_host(in_place, keys(50))
    assert torch.allclose(torch.from_numpy(in_place), MASKS(before, keys(50)), atol=1e-5)


def test_masks_follow_from_the_key_of_a_sample_alone() -> None:
    bands, moments = MASKS.masks(keys(50), MELS, FRAMES)
    some = np.array([7, 3, 40])
    again = MASKS.masks(keys(50)[some], MELS, FRAMES)
    assert np.array_equal(again[0], bands[some])
    assert np.array_equal(again[1], moments[some])
    assert not np.array_equal(MASKS.masks(keys(50, epoch=1), MELS, FRAMES)[0], bands)


@pytest.mark.parametrize("axis", [0, 1])
def test_widths_and_places_are_equally_likely(axis: int) -> None:
    one = SpecAugment(frequency_width=6, time_width=6, frequency_masks=1, time_masks=1)
    inside = one.masks(keys(20_000), 10, 10)[axis]
    widths = inside.sum(1)
    counts = np.bincount(widths, minlength=7)
    expected = len(inside) / 7
    assert ((counts - expected) ** 2 / expected).sum() < 27.9, "chi-square of 6 degrees of freedom, p = 1e-4"
    for width in range(1, 7):
        of_this_width = inside[widths == width]
        firsts = np.bincount(of_this_width.argmax(1), minlength=11 - width)
        assert len(firsts) == 11 - width, "a mask never leaves the spectrogram, and reaches both of its ends"
        expected = len(of_this_width) / len(firsts)
        assert ((firsts - expected) ** 2 / expected).sum() < 33.8, "at most 9 degrees of freedom, p = 1e-4"
        assert (np.abs(np.diff(of_this_width.astype(int), axis=1)).sum(1) <= 2).all(), "and is in one piece"


def test_bands_and_moments_are_drawn_independently() -> None:
    one = SpecAugment(frequency_width=10, time_width=10, frequency_masks=1, time_masks=1)
    bands, moments = one.masks(keys(20_000), 10, 10)
    assert abs(np.corrcoef(bands.sum(1), moments.sum(1))[0, 1]) < 0.03


def test_masks_stay_within_their_share_of_the_frames_and_within_small_spectrograms() -> None:
    masks = SpecAugment(frequency_width=100, time_width=100, time_fraction=0.2, time_masks=1)
    bands, moments = masks.masks(keys(500), MELS, FRAMES)
    assert moments.sum(1).max() == FRAMES // 5
    assert bands.all(1).any()


def test_no_masks_change_nothing() -> None:
    before = spectrograms(5)
    for none in (SpecAugment(0, 0), SpecAugment(9, 9, frequency_masks=0, time_masks=0)):
        assert torch.equal(none(before, keys(5)), before)


def test_impossible_masks_are_refused() -> None:
    for wrong in ({"frequency_width": -1}, {"time_masks": -1}, {"time_fraction": 1.5}):
        with pytest.raises(DataError, match="time_fraction between 0 and 1"):
            SpecAugment(**{"frequency_width": 1, "time_width": 1, **wrong})  # type: ignore[arg-type]
