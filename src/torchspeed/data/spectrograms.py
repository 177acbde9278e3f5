"""Log-mel spectrograms as batches: from recordings to masked spectrograms, without a call per sample.

When sound is moved or made louder at random, its spectrogram cannot be kept from epoch to epoch. Made here, that of a
spoken digit (a second at 8 kHz, half of it silence) costs a core 16 µs; a ``torch.stft`` for each sample in a
``DataLoader`` costs 190, most of it calls. A model that begins with ``LogMel`` makes them on its own device instead.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.audio import Waveforms
from torchspeed.data.batched import BatchedDataset
from torchspeed.data.buffers import Buffers
from torchspeed.data.kernels.mel_tables import tables
from torchspeed.data.kernels.sound import log_mel
from torchspeed.data.log_mel import LogMel
from torchspeed.data.random import Keys
from torchspeed.data.spec_augment import SpecAugment


class Spectrograms(BatchedDataset):
    """What ``features`` makes of ``waveforms``, masked by ``masks``: (float32 [B, mels, frames], labels int64 [B]).

    The numbers are those of ``features(waveforms)`` up to rounding: where the power is above a millionth of the loudest
    in its frame, logarithms agree to 1e-4. Raises ``DataError`` where ``features.n_fft`` is not 2 · 2^a · 3^b · 5^c.
    """

    threads = True

    def __init__(self, waveforms: Waveforms, features: LogMel, masks: SpecAugment | None = None) -> None:
        self.waveforms, self.masks = waveforms, masks
        self.tables = tables(features.window.cpu().numpy(), features.bank.cpu().numpy(), features.hop, features.floor)
        self.buffers = Buffers()

    def __len__(self) -> int:
        return len(self.waveforms)

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> tuple[Tensor, Tensor]:
        waveforms = self.waveforms
        frames = 1 + waveforms.length // self.tables.hop
        out = self.buffers.take((len(indices), self.tables.mels, frames), np.float32)
        log_mel(waveforms.samples, *waveforms.cuts(indices, keys), waveforms.length, self.tables, out)
        if self.masks is not None:
            self.masks.on_host(out, keys)
        return torch.from_numpy(out), waveforms.labels_of(indices)
