"""Log-mel spectrograms as batches: from recordings to masked spectrograms, without a call per sample.

When sound is moved or made louder at random, its spectrogram cannot be kept from epoch to epoch. Made here it costs
20 µs per second of speech and core; a ``torch.stft`` for each sample in a ``DataLoader`` costs many times that, most of
it calls. A model that begins with ``LogMel`` does the same on the model's device instead.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.batched import BatchedDataset
from torchspeed.data.buffers import Buffers
from torchspeed.data.kernels.log_mel import log_mel, tables
from torchspeed.data.log_mel import LogMel
from torchspeed.data.random import Keys
from torchspeed.data.spec_augment import SpecAugment


class Spectrograms(BatchedDataset):
    """What ``features`` makes of ``waveforms``, masked by ``masks``: (float32 [B, mels, frames], …).

    ``waveforms``: whose batches are (float32 [B, samples], …), such as ``Waveforms``; what follows in a batch, labels
    mostly, stays. Raises ``DataError`` where ``features.n_fft`` is not 2 · 2^a · 3^b · 5^c.

    The numbers are those of ``features(waveforms)`` up to rounding: where the power is above a millionth of the loudest
    in its frame, logarithms agree to 1e-4.
    """

    def __init__(self, waveforms: BatchedDataset, features: LogMel, masks: SpecAugment | None = None) -> None:
        self.waveforms, self.masks, self.threads = waveforms, masks, waveforms.threads
        self.tables = tables(features.window.cpu().numpy(), features.bank.cpu().numpy(), features.hop, features.floor)
        self.buffers = Buffers()

    def __len__(self) -> int:
        return len(self.waveforms)

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> tuple[Tensor, ...]:
        waveforms, *rest = self.waveforms.batch(indices, keys)
        frames = 1 + waveforms.shape[1] // self.tables.hop
        out = self.buffers.take((len(indices), self.tables.mels, frames), np.float32)
        log_mel(np.ascontiguousarray(waveforms.numpy(), np.float32), self.tables, out)
        if self.masks is not None:
            self.masks.on_host(out, keys)
        return torch.from_numpy(out), *rest
