"""Masked bands and moments of a spectrogram.

What is heard does not hang on any one band of frequencies or moment, so a network learns more from recordings in which
some are missing. Park et al., "SpecAugment: a simple data augmentation method for automatic speech recognition",
arXiv:1904.08779; its third operation, warping of time, gives little there and is left out. The paper masks with zeros
in spectrograms whose mean is zero; here masks have each spectrogram's own mean, which is the same before and after it
is normalised.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.kernels.hide import hide
from torchspeed.data.random import Keys, uniform
from torchspeed.errors import DataError

_FIRST_STREAM = 16  # below are those of what the spectrograms are made from


@dataclass(frozen=True)
class SpecAugment:
    """``frequency_masks`` masks of 0 to ``frequency_width`` bands, and ``time_masks`` of 0 to ``time_width`` frames.

    Widths are uniform, and so is where a mask lies; masks may overlap. ``time_fraction``: of the frames, that one mask
    covers at most. The paper's policy for LibriSpeech (80 bands, 100 frames a second): widths of 27 and 100.
    """

    frequency_width: int
    time_width: int
    frequency_masks: int = 2
    time_masks: int = 2
    time_fraction: float = 1.0

    def __post_init__(self) -> None:
        whole = (self.frequency_width, self.time_width, self.frequency_masks, self.time_masks)
        if min(whole) < 0 or not 0 <= self.time_fraction <= 1:
            raise DataError(f"{self}: widths and numbers of masks must be at least 0, time_fraction between 0 and 1")

    def __call__(self, spectrograms: Tensor, keys: Keys) -> Tensor:
        """Masks that follow from ``keys`` uint64 [B], on ``spectrograms`` floats [B, mels, frames] of any device."""
        _, mels, frames = spectrograms.shape
        bands, moments = (torch.from_numpy(part).to(spectrograms.device) for part in self.masks(keys, mels, frames))
        mean = spectrograms.mean((1, 2), keepdim=True)
        return torch.where(bands[:, :, None] | moments[:, None, :], mean, spectrograms)

    def on_host(self, spectrograms: NDArray[np.float32], keys: Keys) -> None:
        """The same in place, in loader threads, where PyTorch would make threads of its own."""
        hide(spectrograms, *self.masks(keys, *spectrograms.shape[1:]))

    def masks(self, keys: Keys, mels: int, frames: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(bands [B, mels], moments [B, frames]): true where something is masked."""
        longest = min(self.time_width, int(self.time_fraction * frames))
        streams = range(_FIRST_STREAM, _FIRST_STREAM + self.frequency_masks + self.time_masks)
        bands = _stretches(keys, streams[: self.frequency_masks], min(self.frequency_width, mels), mels)
        return bands, _stretches(keys, streams[self.frequency_masks :], longest, frames)


def _stretches(keys: Keys, streams: range, longest: int, places: int) -> NDArray[np.bool_]:
    """bool [B, places]: the union of one stretch for each of ``streams``, of 0 to ``longest`` places."""
    inside = np.zeros((len(keys), places), np.bool_)
    place = np.arange(places)
    for stream in streams:
        draw = uniform(keys, stream) * (longest + 1)
        width = np.floor(draw)
        first = np.floor((draw - width) * (places - width + 1))  # what the width leaves of the draw is uniform too
        inside |= (place >= first[:, None]) & (place < (first + width)[:, None])
    return inside
