"""Read a wav file, believing none of its lengths.

Python's ``wave`` refuses floating-point files, and a header that declares more samples than the file holds gives it
fewer without a word. A wav file is a list of chunks, each with its length; here every length is checked against
the file before it is used. Source: "Multimedia programming interface and data specifications 1.0", IBM and
Microsoft, 1991, and the WAVEFORMATEXTENSIBLE page of Microsoft's documentation.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.errors import DataError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MAX_CHANNELS, _MAX_SAMPLE_RATE = 64, 1_000_000
_MAX_BYTES = 8 + 0xFFFFFFFF  # lengths have 32 bits


def read_wav(path: str | Path) -> tuple[Tensor, int]:
    """(waveform, sample rate in Hz): float32 [samples] in [-1, 1); several channels are averaged into one.

    Reads PCM of 8, 16, 24 or 32 bits and 32-bit floats. Raises ``DataError`` naming the file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise DataError(f"{path}: {size:,} bytes; a wav file cannot be longer than 4 GiB: cut it into pieces")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    chunks = _chunks(data, path)
    if b"fmt " not in chunks or b"data" not in chunks:
        found = ", ".join(repr(name) for name in chunks) or "none"
        raise DataError(f"{path}: without the chunks 'fmt ' and 'data' of a wav file; found {found}")
    form = _Format.parse(chunks[b"fmt "], path)
    samples = chunks[b"data"]
    if not samples or len(samples) % form.frame_bytes:
        raise DataError(
            f"{path}: {len(samples):,} bytes of sound are not a whole number, above 0, of frames of "
            f"{form.frame_bytes} bytes; it is empty or torn"
        )
    waveform = _decode(samples, form).reshape(-1, form.channels).mean(1, dtype=np.float32)
    if not np.isfinite(waveform).all():
        raise DataError(f"{path}: sample {int(np.argmin(np.isfinite(waveform)))} is not finite")
    return torch.from_numpy(waveform), form.sample_rate


def _chunks(data: bytes, path: Path) -> dict[bytes, bytes]:
    """The first chunk of each name."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise DataError(f"{path}: not a wav file (it opens with {data[:12]!r})")
    _check_length(8, int.from_bytes(data[4:8], "little"), len(data), "RIFF", path)
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        _check_length(position + 8, length, len(data), repr(name), path)
        chunks.setdefault(name, data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return chunks


def _check_length(start: int, length: int, held: int, name: str, path: Path) -> None:
    if start + length > held:
        raise DataError(
            f"{path}: the chunk {name} declares {length:,} bytes where the file holds {held - start:,} more; "
            "it is torn, or was written to a pipe and never closed"
        )


@dataclass(frozen=True)
class _Format:
    is_float: bool
    channels: int
    sample_rate: int
    bits: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8

    @classmethod
    def parse(cls, chunk: bytes, path: Path) -> "_Format":
        if len(chunk) < 16:
            raise DataError(f"{path}: a 'fmt ' chunk of {len(chunk)} bytes; it has at least 16")
        code, channels, sample_rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
        if code == _EXTENSIBLE and len(chunk) >= 26:
            (code,) = struct.unpack_from("<H", chunk, 24)  # the true code opens the 16 bytes of the subformat
        if (code, bits) not in {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32)}:
            raise DataError(
                f"{path}: samples of {bits} bits in format {code}; read are PCM (1) of 8, 16, 24 or 32 bits and "
                "floats (3) of 32 bits. Convert it, for example with: ffmpeg -i IN -c:a pcm_s16le OUT.wav"
            )
        form = cls(code == _FLOAT, channels, sample_rate, bits)
        if not (1 <= channels <= _MAX_CHANNELS and 1 <= sample_rate <= _MAX_SAMPLE_RATE):
            raise DataError(f"{path}: {channels} channels at {sample_rate} Hz cannot be right; its header is damaged")
        if frame_bytes != form.frame_bytes:
            raise DataError(
                f"{path}: frames of {frame_bytes} bytes, but {channels} channels of {bits} bits make "
                f"{form.frame_bytes}; its header is damaged"
            )
        return form


def _decode(samples: bytes, form: _Format) -> NDArray[np.float32]:
    """Full scale is 1. 8-bit samples are unsigned, all others signed, little-endian."""
    if form.is_float:
        return np.frombuffer(samples, "<f4")
    if form.bits == 8:
        return (np.frombuffer(samples, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if form.bits == 24:
        widened = np.zeros((len(samples) // 3, 4), np.uint8)
        widened[:, 1:] = np.frombuffer(samples, np.uint8).reshape(-1, 3)  # the low byte stays 0, so the sign is right
        samples, bits = widened.tobytes(), 32
    else:
        bits = form.bits
    integers = np.frombuffer(samples, f"<i{bits // 8}")
    return integers.astype(np.float32) / np.float32(2 ** (bits - 1))
