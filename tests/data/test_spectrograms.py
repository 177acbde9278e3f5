"""Spectrograms made on the host are those that ``LogMel`` makes with PyTorch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from torchspeed.data.audio import Recordings, Waveforms, read_spoken_digits
from torchspeed.data.log_mel import LogMel
from torchspeed.data.random import sample_keys
from torchspeed.data.spec_augment import SpecAugment
from torchspeed.data.spectrograms import Spectrograms
from torchspeed.errors import DataError


def of(waveforms: Tensor, features: LogMel, masks: SpecAugment | None = None) -> Tensor:
    count, length = waveforms.shape
    whole = Waveforms(Recordings.of(list(waveforms), [0] * count, 8000), length)
    indices = np.arange(count)
    return Spectrograms(whole, features, masks).batch(indices, sample_keys(0, 0, indices))[0]


def assert_close_where_loud(ours: Tensor, theirs: Tensor) -> None:
    """float32 resolves a power down to a fraction of the loudest in its window; below that it is rounding."""
    assert ours.shape == theirs.shape
    loud = theirs > theirs.amax(1, keepdim=True) + np.log(1e-6)
    torch.testing.assert_close(ours[loud], theirs[loud], atol=1e-4, rtol=0)


GENERATOR = torch.Generator().manual_seed(0)
# Windows whose halves are products of every factor: 4·4·4·2, 4·4·4·4, 4·5·5, 4·4·5·3, 2·5, 3·3·3, 1.
SIZES = [(256, 80, 40), (512, 128, 40), (200, 80, 20), (480, 240, 40), (20, 7, 2), (54, 100, 4), (2, 1, 1)]


@pytest.mark.parametrize(("n_fft", "hop", "mels"), SIZES)
@pytest.mark.parametrize("samples", [1, 1000])
def test_noise_and_tones_have_the_spectrogram_of_torch(n_fft: int, hop: int, mels: int, samples: int) -> None:
    time = torch.arange(samples) / 8000
    waveforms = torch.stack(
        [torch.randn(samples, generator=GENERATOR), torch.sin(2 * torch.pi * (300 + 9000 * time) * time)]
    )
    features = LogMel(8000, n_fft, hop, mels)
    assert_close_where_loud(of(waveforms, features), features(waveforms))


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 32, 33])
def test_any_number_of_frames_is_made(frames: int) -> None:
    features = LogMel(8000, 64, 50, 8)
    waveforms = torch.randn(3, 50 * (frames - 1) + 7, generator=GENERATOR)
    assert_close_where_loud(of(waveforms, features), features(waveforms))


def test_silence_is_the_floor_to_the_bit_next_to_the_loudest_sound() -> None:
    waveforms = torch.zeros(2, 4000)
    waveforms[1, 1000:2000] = 1000 * torch.randn(1000, generator=GENERATOR)
    features = LogMel(8000, 256, 128, 20)
    ours, theirs = of(waveforms, features), features(waveforms)
    silent = theirs == np.float32(np.log(np.float32(1e-10)))
    assert 0.7 < silent.float().mean() < 0.9
    torch.testing.assert_close(ours[silent], theirs[silent], atol=1e-6, rtol=1e-6)
    assert_close_where_loud(ours, theirs)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_does_not_become_one(wrong: float) -> None:
    waveforms = torch.randn(1, 1000, generator=GENERATOR)
    waveforms[0, 500] = wrong
    features = LogMel(8000, 64, 32, 8)
    assert torch.equal(of(waveforms, features).isfinite(), features(waveforms).isfinite())


def test_powers_of_every_size_have_their_logarithm() -> None:
    """A constant has its power in the lowest frequencies alone, so that one band is the power itself."""
    loudness = torch.logspace(-12, 12, 997, dtype=torch.float64)
    features = LogMel(8000, 2, 1, 1, floor=1e-30)
    features.bank[0] = torch.tensor([1.0, 0.0])
    powers = of(loudness.float()[:, None], features)[:, 0, 0]
    window = features.window[1].item()  # of two samples, one is silence before the beginning
    exact = (loudness.float().double() * window).square().log()
    torch.testing.assert_close(powers.double(), exact, atol=3e-7, rtol=3e-7)


def test_masks_hide_the_same_as_they_do_on_a_device() -> None:
    waveforms, features = torch.randn(20, 1000, generator=GENERATOR), LogMel(8000, 64, 32, 8)
    masks = SpecAugment(frequency_width=3, time_width=8)
    ours = of(waveforms, features, masks)
    assert_close_where_loud(ours, masks(features(waveforms), sample_keys(0, 0, np.arange(20))))
    assert not torch.equal(ours, of(waveforms, features))


def test_labels_and_draws_are_those_of_the_waveforms() -> None:
    recordings = Recordings.of([torch.randn(n, generator=GENERATOR) for n in (900, 1000, 1100)], [7, 8, 9], 8000)
    waveforms = Waveforms(recordings, 1000, shift=100, gain_db=6.0)
    features = LogMel(8000, 64, 32, 8)
    spectrograms = Spectrograms(waveforms, features)
    assert len(spectrograms) == 3
    assert spectrograms.threads
    indices = np.array([2, 0, 0, 1])
    keys = sample_keys(0, 5, indices)
    ours, labels = spectrograms.batch(indices, keys)
    assert labels.tolist() == [9, 7, 7, 8]
    assert_close_where_loud(ours, features(waveforms.batch(indices, keys)[0]))
    assert torch.equal(spectrograms[1][0], spectrograms.batch(np.array([1]), sample_keys(0, 0, np.array([1])))[0][0])


def test_threads_at_once_make_what_one_makes_and_nothing_is_overwritten() -> None:
    recordings = Recordings.of([torch.randn(2000, generator=GENERATOR) for _ in range(64)], [0] * 64, 8000)
    spectrograms = Spectrograms(Waveforms(recordings, 2000, shift=500), LogMel(8000, 64, 32, 8))
    requests = [(part, sample_keys(0, 0, part)) for part in np.arange(64).reshape(16, 4)]
    alone = [spectrograms.batch(*request)[0].clone() for request in requests]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda request: spectrograms.batch(*request)[0], requests))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_windows_that_cannot_be_halved_and_factored_are_refused_with_the_next_that_can() -> None:
    for n_fft, following in ((25, 30), (28, 30), (514, 540)):
        with pytest.raises(DataError, match=f"n_fft={n_fft}: .* the next is {following}"):
            of(torch.zeros(1, 1000), LogMel(8000, n_fft, 32, 2))


def test_a_bank_of_bands_that_overlap_more_is_refused() -> None:
    features = LogMel(8000, 64, 32, 8)
    features.bank += 0.1
    with pytest.raises(DataError, match="two neighbouring"):
        of(torch.zeros(1, 1000), features)


def test_a_floor_that_float32_does_not_hold_is_refused() -> None:
    with pytest.raises(DataError, match="floor=1e-40"):
        of(torch.zeros(1, 1000), LogMel(8000, 64, 32, 8, floor=1e-40))


def test_what_is_skipped_as_silent_holds_no_sound() -> None:
    """Recordings of one sample, moved to every place of their window and beyond its ends."""
    clicks = Waveforms(Recordings.of([torch.tensor([100.0])] * 3000, [0] * 3000, 8000), 200, shift=120)
    indices = np.arange(3000)
    keys = sample_keys(0, 0, indices)
    waveforms = clicks.batch(indices, keys)[0]
    assert (waveforms.amax(0) == 100).all()
    assert (waveforms.amax(1) == 0).any()
    for features in (LogMel(8000, 64, 32, 8), LogMel(8000, 20, 50, 2)):
        assert_close_where_loud(Spectrograms(clicks, features).batch(indices, keys)[0], features(waveforms))


def test_real_digits_have_the_spectrogram_of_torch(shared: Path) -> None:
    _, digits = read_spoken_digits(shared / "spoken_digits")
    features = LogMel(8000, n_fft=512, hop=128, mels=40, floor=1e-6)
    waveforms = Waveforms(digits, 8000, shift=800, gain_db=6.0)
    indices = np.arange(len(digits))
    keys = sample_keys(0, 1, indices)
    ours = Spectrograms(waveforms, features).batch(indices, keys)[0]
    torch.testing.assert_close(ours, features(waveforms.batch(indices, keys)[0]), atol=2e-4, rtol=0)
