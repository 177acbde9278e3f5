"""Sound at another sample rate is the same sound."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from torchspeed.data.resample_audio import resample
from torchspeed.errors import DataError

RATES = [(8000, 16_000), (16_000, 8000), (44_100, 16_000), (22_050, 16_000), (8000, 11_025), (48_000, 44_100)]


def sine(hz: float, rate: int, seconds: float = 0.2) -> Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * rate), dtype=torch.float64) / rate)


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_tone_stays_the_tone_that_it_is(old: int, new: int) -> None:
    for hz in (100, 440, 0.3 * min(old, new)):
        resampled = resample(sine(hz, old), old, new)
        assert len(resampled) == math.ceil(0.2 * new)
        middle = slice(len(resampled) // 10, -len(resampled) // 10)  # beyond its ends the tone is taken to be silent
        error = (resampled - sine(hz, new)[: len(resampled)])[middle].abs().max()
        assert error < 6e-3, f"{hz} Hz from {old} to {new}: {error}"


@pytest.mark.parametrize(("old", "new"), RATES)
def test_scipy_resamples_a_band_limited_signal_to_the_same(old: int, new: int) -> None:
    signal = pytest.importorskip("scipy.signal", reason="scipy comes with librosa, which is not installed")
    generator = np.random.default_rng(0)
    tones = generator.uniform(50, 0.3 * min(old, new), 20)
    sound = sum(sine(hz, old).numpy() * generator.uniform(-1, 1) for hz in tones) / 20
    ours = resample(torch.from_numpy(sound), old, new).numpy()
    divisor = math.gcd(old, new)
    theirs = signal.resample_poly(sound, new // divisor, old // divisor, window=("kaiser", 12.0))
    assert len(ours) == len(theirs)
    middle = slice(len(ours) // 10, -len(ours) // 10)
    np.testing.assert_allclose(ours[middle], theirs[middle], atol=6e-3 * np.abs(sound).max())


@pytest.mark.parametrize(("old", "new"), [(16_000, 8000), (44_100, 16_000)])
def test_what_the_new_rate_cannot_hold_is_silenced_and_does_not_fold_back(old: int, new: int) -> None:
    resampled = resample(sine(0.75 * new, old), old, new)
    assert resampled[len(resampled) // 10 : -len(resampled) // 10].abs().max() < 6e-3


def test_a_batch_is_resampled_as_its_waveforms_are_one_by_one() -> None:
    waveforms = torch.rand(2, 3, 441, generator=torch.Generator().manual_seed(0))
    batch = resample(waveforms, 44_100, 16_000)
    assert batch.shape == (2, 3, 160)
    assert batch.dtype == torch.float32
    for i in range(2):
        for j in range(3):
            assert torch.allclose(batch[i, j], resample(waveforms[i, j], 44_100, 16_000), atol=1e-6)


def test_the_same_rate_is_the_same_sound_and_lengths_are_rounded_up() -> None:
    waveform = torch.rand(101)
    assert resample(waveform, 8000, 8000) is waveform
    assert resample(waveform, 16_000, 8000).shape == (51,)
    assert resample(waveform[:1], 16_000, 8000).shape == (1,)
    assert resample(waveform[:0], 16_000, 8000).shape == (0,)


def test_gradients_go_through() -> None:
    waveform = torch.rand(30, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda sound: resample(sound, 3, 2), waveform)


def test_rates_that_would_take_gigabytes_are_refused() -> None:
    for old, new, finding in (
        (1, 16_000, "256 times as many samples"),
        (44_101, 16_000, "16,000 filters of 44,135 coefficients, .* no larger common divisor than 1"),
        (0, 16_000, "above 0"),
        (16_000, -1, "above 0"),
    ):
        with pytest.raises(DataError, match=finding):
            resample(torch.zeros(10), old, new)
    with pytest.raises(DataError, match="int16"):
        resample(torch.zeros(10, dtype=torch.int16), 8000, 16_000)
