"""Sound is read as other readers read it, cut and padded in batches, and heard as librosa hears it."""

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from torchspeed.data.audio import Recordings, Waveforms, read_spoken_digits, read_wav_folder
from torchspeed.data.log_mel import LogMel, log_mel, mel_filter_bank
from torchspeed.data.random import integers, sample_keys, uniform
from torchspeed.data.resample_audio import resample
from torchspeed.data.wav import read_wav
from torchspeed.errors import DataError

SIGNAL = np.random.default_rng(0).uniform(-1, 1, (50, 2))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WAVE" + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def fmt(code: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16) -> tuple[bytes, bytes]:
    frame = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits)


def write_pcm(path: Path, signal: np.ndarray, bits: int, rate: int = 8000) -> np.ndarray:
    """Write by Python's ``wave``; returns the signal that the file holds after rounding."""
    levels = np.clip(np.round(signal * 2 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)
    raw = (levels + 128).astype(np.uint8) if bits == 8 else levels.astype("<i4" if bits > 16 else "<i2")
    data = raw.tobytes()
    if bits == 24:
        data = np.frombuffer(data, np.uint8).reshape(-1, 4)[:, :3].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(signal.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(data)
    return levels / 2 ** (bits - 1)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_pcm_of_every_width_is_read_and_stereo_is_averaged(bits: int, channels: int, tmp_path: Path) -> None:
    held = write_pcm(tmp_path / "a.wav", SIGNAL[:, :channels], bits, rate=16_000)
    waveform, rate = read_wav(tmp_path / "a.wav")
    assert (waveform.dtype, rate) == (torch.float32, 16_000)
    np.testing.assert_allclose(waveform.numpy(), held.mean(1), atol=1e-7)


def test_floats_extensible_headers_and_unknown_chunks_are_read(tmp_path: Path) -> None:
    floats = SIGNAL.astype("<f4")
    name, head = fmt(0xFFFE, 2, 8000, 32)
    extensible = (name, head + struct.pack("<HHI", 22, 32, 3) + struct.pack("<H", 3) + bytes(14))
    for form in (fmt(3, 2, 8000, 32), extensible):
        (tmp_path / "a.wav").write_bytes(riff((b"LIST", b"odd"), form, (b"data", floats.tobytes()), (b"id3 ", b"x")))
        np.testing.assert_allclose(read_wav(tmp_path / "a.wav")[0].numpy(), floats.mean(1), atol=1e-7)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_libsndfile_reads_the_same(subtype: str, form: str, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="soundfile comes with librosa, which is not installed")
    soundfile.write(tmp_path / "a.wav", SIGNAL, 22_050, subtype=subtype, format=form)
    theirs, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    ours, our_rate = read_wav(tmp_path / "a.wav")
    assert rate == our_rate
    np.testing.assert_allclose(ours.numpy(), theirs.mean(1), atol=1e-7)


SOUND = (b"data", bytes(20))
GOOD = riff(fmt(), SOUND)
DAMAGED = {
    "cut": (GOOD[:-6], r"the chunk RIFF declares 56 bytes where the file holds 50 more"),
    "longer than the file": (
        GOOD.replace(struct.pack("<I", 20), b"\xff\xff\xff\x7f"),
        "b'data' declares 2,147,483,647 bytes",
    ),
    "never closed": (GOOD[:4] + b"\xff" * 4 + GOOD[8:], "declares 4,294,967,295 bytes"),
    "text": (b"hello, this is not a sound", "not a wav file"),
    "nothing": (b"", "not a wav file"),
    "no sound": (riff(fmt()), r"without the chunks .* found b'fmt '"),
    "no header": (riff(SOUND), "without the chunks"),
    "silence of no length": (riff(fmt(), (b"data", b"")), "empty or torn"),
    "half a frame": (riff(fmt(channels=2), (b"data", bytes(18))), "not a whole number"),
    "no channel": (riff(fmt(channels=0), SOUND), "0 channels"),
    "65535 channels": (riff(fmt(channels=65535, bits=8), SOUND), "65535 channels"),
    "no rate": (riff(fmt(rate=0), SOUND), "0 Hz"),
    "compressed": (riff(fmt(code=2, bits=4), SOUND), "4 bits in format 2"),
    "12 bits": (riff(fmt(bits=12), SOUND), "12 bits"),
    "a short header": (riff((b"fmt ", bytes(10)), SOUND), "'fmt ' chunk of 10 bytes"),
    "frames that disagree": (
        riff((b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16000, 4, 16)), SOUND),
        "frames of 4 bytes",
    ),
    "not a number": (
        riff(fmt(3, bits=32), (b"data", struct.pack("<3f", 0, 0, float("nan")))),
        "sample 2 is not finite",
    ),
}


@pytest.mark.parametrize(("data", "finding"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_with_the_finding(data: bytes, finding: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.wav: .*{finding}"):
        read_wav(tmp_path / "a.wav")


def test_a_file_longer_than_any_wav_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.wav", "wb") as file:
        file.truncate(5 << 30)  # takes no room on the disk
    with pytest.raises(DataError, match=r"a\.wav: 5,368,709,120 bytes; a wav file cannot be longer than 4 GiB"):
        read_wav(tmp_path / "a.wav")


def folder_of_wavs(folder: Path) -> None:
    for name in ("yes/1.wav", "yes/more/2.WAV", "no/1.wav", ".cache/1.wav"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        write_pcm(folder / name, SIGNAL * len(name) / 20, 16)
    (folder / "no" / "README.txt").write_text("not a sound")


def test_every_folder_is_a_class_of_the_files_below_it(tmp_path: Path) -> None:
    folder_of_wavs(tmp_path)
    recordings, classes = read_wav_folder(tmp_path)
    assert classes == ("no", "yes")
    assert recordings.labels.tolist() == [0, 1, 1]
    assert recordings.sample_rate == 8000
    for i, name in enumerate(("no/1.wav", "yes/1.wav", "yes/more/2.WAV")):
        held = recordings.samples[recordings.offsets[i] : recordings.offsets[i + 1]]
        assert torch.equal(held, read_wav(tmp_path / name)[0])


def test_recordings_of_any_rate_are_resampled_to_the_one_that_is_asked_for(tmp_path: Path) -> None:
    folder_of_wavs(tmp_path)
    write_pcm(tmp_path / "yes" / "1.wav", SIGNAL, 16, rate=22_050)
    recordings, _ = read_wav_folder(tmp_path, sample_rate=16_000)
    assert recordings.sample_rate == 16_000
    assert np.diff(recordings.offsets).tolist() == [100, 37, 100]
    expected = resample(read_wav(tmp_path / "yes" / "1.wav")[0], 22_050, 16_000)
    assert torch.equal(recordings.samples[100:137], expected)
    with pytest.raises(DataError, match=r"yes/1\.wav: 22050 Hz where .*no/1\.wav has 8000 Hz; give sample_rate="):
        read_wav_folder(tmp_path)


def test_a_folder_that_is_not_one_of_classes_is_refused_with_the_file(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"one folder of \.wav files per class"):
            read_wav_folder(folder)
    folder_of_wavs(tmp_path)
    (tmp_path / "maybe").mkdir()
    with pytest.raises(DataError, match=r"maybe: no \.wav file in it"):
        read_wav_folder(tmp_path)
    (tmp_path / "maybe" / "1.wav").write_bytes(GOOD[:-6])
    with pytest.raises(DataError, match=r"maybe/1\.wav: the chunk RIFF declares"):
        read_wav_folder(tmp_path)


def test_a_header_that_declares_a_rate_of_1_hz_does_not_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "yes").mkdir()
    write_pcm(tmp_path / "yes" / "1.wav", SIGNAL, 16, rate=1)
    with pytest.raises(DataError, match=r"yes/1\.wav: from 1 to 16000 Hz: more than 256 times as many samples"):
        read_wav_folder(tmp_path, sample_rate=16_000)


def test_spoken_digits_are_split_by_the_index_in_their_names(tmp_path: Path) -> None:
    for digit in (3, 7):
        for index in (0, 4, 5, 12):
            write_pcm(tmp_path / f"{digit}_ada_{index}.wav", np.full((10 + digit + index, 1), digit / 10), 16)
    train, test = read_spoken_digits(tmp_path)
    assert (sorted(train.labels.tolist()), test.labels.tolist()) == ([3, 3, 7, 7], [3, 3, 7, 7])
    assert (len(train), train.sample_rate) == (4, 8000)
    assert test.offsets.tolist() == [0, 13, 30, 47, 68]
    for i, label in enumerate(test.labels.tolist()):
        recording = test.samples[test.offsets[i] : test.offsets[i + 1]]
        assert torch.allclose(recording, torch.tensor(label / 10), atol=1e-4)


def test_a_folder_of_other_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.wav file"):
        read_spoken_digits(tmp_path)
    write_pcm(tmp_path / "7_ada_8.wav", SIGNAL, 16)
    with pytest.raises(DataError, match="no recording with index 0 to 4"):
        read_spoken_digits(tmp_path)
    write_pcm(tmp_path / "7_ada_9.wav", SIGNAL, 16, rate=16_000)
    with pytest.raises(DataError, match=r"7_ada_9\.wav: 16000 Hz where 7_ada_8\.wav has 8000 Hz"):
        read_spoken_digits(tmp_path)
    (tmp_path / "7_ada_9.wav").rename(tmp_path / "noise.wav")
    with pytest.raises(DataError, match=r"noise\.wav: not called"):
        read_spoken_digits(tmp_path)


GENERATOR = torch.Generator().manual_seed(0)
RAGGED = [torch.rand(n, generator=GENERATOR) + 1 for n in (1, 7, 20, 21, 40, 3)]
RECORDINGS = Recordings.of(RAGGED, [5, 4, 3, 2, 1, 0], 8000)


def one_waveform(i: int, length: int, shift: int, gain: float) -> Tensor:
    recording = RAGGED[i]
    lead = (length - len(recording)) // 2 + shift
    result = torch.zeros(length)
    for place in range(length):
        if 0 <= place - lead < len(recording):
            result[place] = recording[place - lead]
    return result * torch.tensor(gain, dtype=torch.float32)


@pytest.mark.parametrize("length", [1, 8, 20, 64])
@pytest.mark.parametrize("shift", [0, 3, 100])
@pytest.mark.parametrize("gain_db", [0.0, 6.0])
def test_a_batch_of_waveforms_equals_them_one_by_one_bit_for_bit(length: int, shift: int, gain_db: float) -> None:
    waveforms = Waveforms(RECORDINGS, length, shift=shift, gain_db=gain_db)
    indices = np.array([5, 0, 1, 2, 3, 4, 4])
    keys = sample_keys(0, 2, indices)
    batch, labels = waveforms.batch(indices, keys)
    shifts = integers(keys, 0, -shift, shift + 1)
    gains = 10 ** (gain_db * (2 * uniform(keys, 1) - 1) / 20)
    alone = torch.stack([one_waveform(*a) for a in zip(indices, [length] * 7, shifts, gains, strict=True)])
    assert torch.equal(batch, alone)
    assert labels.tolist() == [0, 5, 4, 3, 2, 1, 1]


def test_gains_stay_within_their_decibels_and_go_both_ways() -> None:
    waveforms = Waveforms(Recordings.of([torch.ones(4)] * 500, [0] * 500, 8000), 4, gain_db=6.0)
    indices = np.arange(500)
    decibels = 20 * waveforms.batch(indices, sample_keys(0, 0, indices))[0][:, 0].log10()
    assert decibels.abs().max() <= 6.0 + 1e-5
    assert decibels.min() < -5.5 < 5.5 < decibels.max()


LIBROSA_CASES = [(8000, 256, 128, 40), (8000, 200, 80, 20), (16_000, 512, 160, 64), (22_050, 2048, 512, 128)]


@pytest.mark.parametrize(("sample_rate", "n_fft", "hop", "mels"), LIBROSA_CASES)
def test_log_mel_is_what_librosa_gives(sample_rate: int, n_fft: int, hop: int, mels: int) -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    bank = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=mels)
    np.testing.assert_allclose(mel_filter_bank(sample_rate, n_fft, mels), bank, rtol=1e-4, atol=1e-9)
    time = torch.arange(5000) / sample_rate
    waveforms = torch.stack(
        [torch.sin(2 * torch.pi * (300 + 900 * time) * time), torch.rand(5000, generator=GENERATOR)]
    )
    ours = log_mel(waveforms, sample_rate, n_fft, hop, mels)
    theirs = librosa.feature.melspectrogram(
        y=waveforms.numpy().astype(np.float64),
        sr=sample_rate,
        n_fft=n_fft,
        hop_length=hop,
        n_mels=mels,
        dtype=np.float64,
    )
    assert ours.shape == (2, mels, 1 + 5000 // hop)
    # float32 resolves a power down to a fraction of the loudest in its window; below that it is rounding.
    loud = theirs > 1e-6 * theirs.max()
    np.testing.assert_allclose(ours.exp().numpy()[loud], theirs[loud], rtol=1e-4)


def test_silence_has_the_logarithm_of_the_floor_and_loudness_adds() -> None:
    features = LogMel(8000, 256, 128, 40, floor=1e-6)
    silence, quiet = features(torch.zeros(1, 1000)), torch.rand(3, 1000, generator=GENERATOR)
    assert torch.equal(silence, torch.full_like(silence, 1e-6).log())
    assert torch.allclose(features(quiet * 10), features(quiet) + np.log(100), atol=1e-3)


def test_log_mel_of_a_batch_is_that_of_its_waveforms_and_its_tables_move_with_the_module() -> None:
    features = LogMel(8000, 256, 128, 40)
    waveforms = torch.rand(4, 1000, generator=GENERATOR)
    one_by_one = torch.cat([features(waveform[None]) for waveform in waveforms])
    assert torch.allclose(features(waveforms), one_by_one, atol=1e-5)
    assert {name for name, _ in features.named_buffers()} == {"window", "bank"}
    assert features.to(torch.float64).bank.dtype == torch.float64
    assert not features.state_dict()


def test_more_bands_than_bins_are_refused() -> None:
    with pytest.raises(DataError, match="mels=128 bands over the 101 bins of n_fft=200 at 8000 Hz: band 0 has no bin"):
        LogMel(8000, 200, 80, 128)


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "spoken_digits"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")
def test_the_real_spoken_digits_are_read() -> None:
    train, test = read_spoken_digits(SHARED)
    assert (len(train), len(test), train.sample_rate) == (2700, 300, 8000)
    assert test.labels.bincount().tolist() == [30] * 10
    assert train.samples.abs().max() <= 1
    assert train.offsets[-1] == len(train.samples)
