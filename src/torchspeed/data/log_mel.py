"""Log-mel spectrograms of whole batches, on whichever device the waveforms are.

A log-mel spectrogram is the power of a signal in short windows, summed over bands that are equally wide to the ear,
on a logarithmic scale. The bands are those of Slaney, "Auditory Toolbox" version 2, Interval Technical Report
1998-010: centres linear up to 1 kHz and logarithmic above, triangles of equal area. The conventions (centred windows,
zeros beyond the ends, periodic Hann window) are those of ``librosa.feature.melspectrogram``.

One ``torch.stft`` and one matrix product serve a batch; a call per sample costs more in dispatch than in arithmetic.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchspeed.errors import DataError

_HZ_PER_MEL = 200 / 3  # below the break
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = np.log(6.4) / 27  # per mel, above the break


def log_mel(waveforms: Tensor, sample_rate: int, n_fft: int, hop: int, mels: int, floor: float = 1e-10) -> Tensor:
    """``LogMel(sample_rate, n_fft, hop, mels, floor)(waveforms)``; the module keeps its tables, this does not."""
    return LogMel(sample_rate, n_fft, hop, mels, floor).to(waveforms.device)(waveforms)  # type: ignore[no-any-return]


class LogMel(nn.Module):
    """float32 [B, samples] -> log power [B, mels, frames] (natural logarithm), frames = 1 + samples // hop.

    ``n_fft``: window in samples; ``hop``: samples from one window to the next; ``floor``: the least power, so that
    silence has a logarithm. Without parameters. The tables are buffers, so they move with the module, but stay out
    of its ``state_dict``: they follow from the arguments. ``Spectrograms`` computes the same in loader threads;
    ``SpecAugment`` masks either's output.
    """

    window: Tensor
    bank: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop: int, mels: int, floor: float = 1e-10) -> None:
        super().__init__()
        if hop < 1 or floor <= 0:
            raise DataError(f"hop={hop} and floor={floor} must be above 0")
        self.n_fft, self.hop, self.floor = n_fft, hop, floor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        bank = torch.from_numpy(mel_filter_bank(sample_rate, n_fft, mels))
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveforms, self.n_fft, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        return torch.matmul(self.bank, power).clamp_min(self.floor).log()


def mel_filter_bank(sample_rate: int, n_fft: int, mels: int) -> NDArray[np.float32]:
    """[mels, n_fft // 2 + 1]: the weight of each frequency bin in each band, from 0 Hz to half the sample rate.

    Raises ``DataError`` when the bands are so many that one of them falls between two bins.
    """
    if n_fft < 2 or mels < 1:
        raise DataError(f"n_fft={n_fft} must be at least 2 and mels={mels} at least 1")
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    edges = _hz(np.linspace(0, _mel(sample_rate / 2), mels + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    empty = np.flatnonzero(triangles.sum(1) == 0)
    if empty.size:
        raise DataError(
            f"mels={mels} bands over the {len(bins)} bins of n_fft={n_fft} at {sample_rate} Hz: band {empty[0]} has no "
            "bin; use fewer mels or a larger n_fft"
        )
    return np.asarray(triangles * (2 / (high - low)), np.float32)


def _mel(hz: float) -> float:
    return hz / _HZ_PER_MEL if hz < _BREAK_HZ else _BREAK_MEL + float(np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = np.maximum(mel - _BREAK_MEL, 0)
    hz: NDArray[np.float64] = np.minimum(mel, _BREAK_MEL) * _HZ_PER_MEL * np.exp(_LOG_STEP * above)
    return hz
