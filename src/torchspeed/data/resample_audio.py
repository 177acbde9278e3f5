"""Another sample rate for the same sound.

Between its samples a band-limited signal is the sum of one sinc per sample. The sinc is infinite, so a window cuts it
off, here a raised cosine of six zero crossings to either side; and where the new rate is lower, the sinc is widened so
that nothing above half the new rate is left to fold back. Between two rates with a common divisor only so many
distances between old and new samples occur, one filter for each (its "phases"), and all of them are one convolution.
Source: J. O. Smith, "Digital audio resampling", https://ccrma.stanford.edu/~jos/resample/; six crossings, a raised
cosine and a roll-off of 0.99 are also what ``torchaudio.functional.resample`` uses unless told otherwise.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from torchspeed.errors import DataError

_CROSSINGS = 6
_ROLLOFF = 0.99  # the cut-off frequency, in halves of the lower rate
_MAX_FILTERS = 1 << 25  # coefficients, 128 MiB
_MAX_RISE = 256


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """``waveform`` floats [..., samples] at ``from_rate`` Hz -> [..., ceil(samples · to_rate / from_rate)].

    On any device, in any floating type, differentiable. Raises ``DataError`` for rates that would take gigabytes: more
    than 256 times as many samples, or two large rates without a common divisor.
    """
    if from_rate < 1 or to_rate < 1 or not waveform.is_floating_point():
        raise DataError(f"{waveform.dtype} from {from_rate} to {to_rate} Hz; floats and rates above 0 are needed")
    if to_rate > _MAX_RISE * from_rate:
        raise DataError(f"from {from_rate} to {to_rate} Hz: more than {_MAX_RISE} times as many samples")
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    if old == new or not waveform.numel():
        return waveform
    cutoff = _ROLLOFF * min(old, new) / old  # in halves of the old rate
    reach = math.ceil(_CROSSINGS / cutoff)  # samples to either side
    if new * (old + 2 * reach) > _MAX_FILTERS:
        raise DataError(
            f"from {from_rate} to {to_rate} Hz: {new:,} filters of {old + 2 * reach:,} coefficients, because the rates "
            f"have no larger common divisor than {divisor}; convert it with another program first"
        )
    filters = _filters(old, new, reach, cutoff).to(waveform)
    samples = waveform.shape[-1]
    padded = F.pad(waveform.reshape(-1, 1, samples), (reach, reach + old))
    phases = F.conv1d(padded, filters[:, None], stride=old)
    resampled = phases.transpose(1, 2).flatten(1)[:, : math.ceil(samples * new / old)]
    return resampled.reshape(*waveform.shape[:-1], -1)


def _filters(old: int, new: int, reach: int, cutoff: float) -> Tensor:
    """float64 [new, old + 2 · reach]: new sample k of a period lies at k · old / new, coefficient j at j - reach."""
    distance = torch.arange(-reach, old + reach, dtype=torch.float64) - torch.arange(new)[:, None] * (old / new)
    crossings = (cutoff * distance).clamp(-_CROSSINGS, _CROSSINGS)
    window = torch.cos(crossings * (torch.pi / 2 / _CROSSINGS)).square()
    return cutoff * torch.sinc(crossings) * window
