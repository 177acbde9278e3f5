"""Recordings of speech, and batches of waveforms of one length.

Recordings are ragged, so they lie end to end in one buffer with offsets: no object per recording, and a batch is one
pass that reads each of them where it lies and writes it, with silence around it, where it is wanted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.batched import BatchedDataset
from torchspeed.data.buffers import Buffers
from torchspeed.data.kernels.sound import waveform_windows
from torchspeed.data.random import Keys, integers, uniform
from torchspeed.data.resample_audio import resample
from torchspeed.data.wav import read_wav
from torchspeed.errors import DataError

_SHIFT_STREAM, _GAIN_STREAM = 0, 1
_SPOKEN_DIGIT = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
_TEST_INDICES = 5


@dataclass(frozen=True, eq=False)
class Recordings:
    """N ragged recordings: recording ``i`` is ``samples[offsets[i]:offsets[i + 1]]``.

    ``samples``: float32 [total]; ``offsets``: int64 [N + 1]; ``labels``: int64 [N]; ``sample_rate`` in Hz.
    """

    samples: Tensor
    offsets: NDArray[np.int64]
    labels: Tensor
    sample_rate: int

    @classmethod
    def of(cls, waveforms: Sequence[Tensor], labels: Sequence[int], sample_rate: int) -> "Recordings":
        """Lay ``waveforms`` (float32 [samples] each) end to end."""
        if not waveforms or len(waveforms) != len(labels):
            raise DataError(f"{len(waveforms)} recordings and {len(labels)} labels; one label per recording is needed")
        offsets = np.cumsum([0, *map(len, waveforms)], dtype=np.int64)
        return cls(torch.cat(list(waveforms)), offsets, torch.tensor(labels), sample_rate)

    def __len__(self) -> int:
        return len(self.labels)


def read_spoken_digits(folder: str | Path) -> tuple[Recordings, Recordings]:
    """(train, test) of the Free Spoken Digit Dataset: files ``{digit}_{speaker}_{index}.wav``, index 0 to 4 is test.

    Raises ``DataError`` naming the file: another name, an unreadable file, another sample rate than the first file's.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.wav"))
    if not files:
        raise DataError(f"{folder}: no such folder, or no .wav file in it; expected names like 7_jackson_32.wav")
    splits: dict[bool, tuple[list[Tensor], list[int]]] = {False: ([], []), True: ([], [])}
    first_rate = read_wav(files[0])[1]
    for path in files:
        match = _SPOKEN_DIGIT.fullmatch(path.name)
        if match is None:
            raise DataError(f"{path}: not called {{digit}}_{{speaker}}_{{index}}.wav; rename it or take it out")
        waveform, sample_rate = read_wav(path)
        if sample_rate != first_rate:
            raise DataError(f"{path}: {sample_rate} Hz where {files[0].name} has {first_rate} Hz; resample it")
        waveforms, labels = splits[int(match[3]) < _TEST_INDICES]
        waveforms.append(waveform)
        labels.append(int(match[1]))
    for is_test, (waveforms, _) in splits.items():
        if not waveforms:
            wanted = f"index 0 to {_TEST_INDICES - 1}" if is_test else f"an index of {_TEST_INDICES} or more"
            raise DataError(f"{folder}: no recording with {wanted}, so no {'test' if is_test else 'training'} set")
    return Recordings.of(*splits[False], first_rate), Recordings.of(*splits[True], first_rate)


def read_wav_folder(folder: str | Path, sample_rate: int | None = None) -> tuple[Recordings, tuple[str, ...]]:
    """(recordings, class names) of a folder with one sub-folder per class; label ``i`` is the i-th name in order.

    Every ``.wav`` file below a class's folder belongs to it. ``sample_rate`` in Hz: all are resampled to it; without it
    they must have one rate. Raises ``DataError`` naming the file, or the class without any.
    """
    folder = Path(folder)
    classes = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(
            f"{folder}: no such folder, or no folders in it; expected is one folder of .wav files per class"
        )
    files: list[tuple[int, Path]] = []
    for label, one_class in enumerate(classes):
        found = sorted(path for path in one_class.rglob("*") if path.suffix.lower() == ".wav")
        if not found:
            raise DataError(f"{one_class}: no .wav file in it; every folder in {folder} is taken for a class")
        files += [(label, path) for path in found]
    rate = sample_rate or read_wav(files[0][1])[1]
    waveforms = []
    for _, path in files:
        waveform, its_rate = read_wav(path)
        if its_rate != rate and sample_rate is None:
            raise DataError(f"{path}: {its_rate} Hz where {files[0][1]} has {rate} Hz; give sample_rate=")
        try:
            waveforms.append(resample(waveform, its_rate, rate))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    return Recordings.of(waveforms, [label for label, _ in files], rate), tuple(path.name for path in classes)


class Waveforms(BatchedDataset):
    """Recordings cut or padded with silence to ``length`` samples, the middle kept in the middle.

    A batch is (waveforms float32 [B, length], labels int64 [B]). ``shift``: samples to move by, at most, either way;
    ``gain_db``: decibels to amplify or attenuate by, at most. Without these a batch does not depend on its keys.
    """

    threads = True

    def __init__(self, recordings: Recordings, length: int, *, shift: int = 0, gain_db: float = 0.0) -> None:
        if length < 1 or shift < 0 or gain_db < 0:
            raise DataError(f"length={length} must be above 0, shift={shift} and gain_db={gain_db} at least 0")
        self.labels, self.length, self.shift, self.gain_db = recordings.labels, length, shift, gain_db
        self.samples = recordings.samples.numpy()
        self.starts, self.counts = recordings.offsets[:-1], np.diff(recordings.offsets)
        self.buffers = Buffers()

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> tuple[Tensor, Tensor]:
        out = self.buffers.take((len(indices), self.length), np.float32)
        waveform_windows(self.samples, *self.cuts(indices, keys), out)
        return torch.from_numpy(out), self.labels_of(indices)

    def labels_of(self, indices: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.labels.numpy()[indices])

    def cuts(
        self, indices: NDArray[np.int64], keys: Keys
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """(first samples, samples, places in the window where the recordings begin, gains), each [B]."""
        counts = self.counts[indices]
        leads = (self.length - counts) // 2  # samples of silence before the recording, or below 0, cut from it
        if self.shift:
            leads = leads + integers(keys, _SHIFT_STREAM, -self.shift, self.shift + 1)
        decibels = self.gain_db * (2 * uniform(keys, _GAIN_STREAM) - 1)
        return self.starts[indices], counts, leads, (10 ** (decibels / 20)).astype(np.float32)
