"""``spoken-digits`` learns from a folder of wav files, and says what it needs when there is none."""

import math
import wave
from pathlib import Path

import pytest
import torch

import torchspeed
from torchspeed.errors import DataError


def write_tones(folder: Path, sample_rate: int = 8000, digits: int = 2, takes: int = 10) -> Path:
    """A "recording" of digit d is a tone of 300 · (d + 1) Hz; takes 0 to 4 are the test set."""
    folder.mkdir()
    for digit in range(digits):
        for take in range(takes):
            times = torch.arange(int(sample_rate * (0.2 + 0.02 * take))) / sample_rate
            tone = (8000 * torch.sin(2 * math.pi * 300 * (digit + 1) * times)).to(torch.int16)
            with wave.open(str(folder / f"{digit}_nobody_{take}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(sample_rate)
                file.writeframes(tone.numpy().tobytes())
    return folder


def test_the_loss_falls_on_two_tones(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "tones")
    job = torchspeed.load_job("spoken-digits", data=str(folder), batch_size=5, epochs=4)
    result = torchspeed.train(job, run_dir=tmp_path / "run", device="cpu", progress=False)
    assert result.steps == 8
    assert result.loss is not None
    assert result.loss < 1.8  # a guess among ten digits costs 2.3


def test_any_sample_rate_gives_one_second(tmp_path: Path) -> None:
    job = torchspeed.load_job("spoken-digits", data=str(write_tones(tmp_path / "tones", sample_rate=16_000)))
    assert job.train[0][0].shape == (16_000,)  # type: ignore[index]
    logits = job.model()(torch.randn(2, 16_000))
    assert logits.shape == (2, 10)


def test_without_data_it_says_where_they_come_from() -> None:
    with pytest.raises(DataError, match=r"free-spoken-digit-dataset .*--data"):
        torchspeed.load_job("spoken-digits")


def test_a_folder_without_recordings_and_a_strange_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder, or no \.wav file in it"):
        torchspeed.load_job("spoken-digits", data=str(tmp_path / "nowhere"))
    folder = write_tones(tmp_path / "tones")
    (folder / "0_nobody_0.wav").rename(folder / "zero.wav")
    with pytest.raises(DataError, match=r"zero\.wav: not called"):
        torchspeed.load_job("spoken-digits", data=str(folder))


def test_it_takes_a_step_on_the_real_recordings(shared: Path, tmp_path: Path) -> None:
    folder = shared / "spoken_digits"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent")
    job = torchspeed.load_job("spoken-digits", data=str(folder), epochs=0.01)
    assert (len(job.train), len(job.valid)) == (2700, 300)  # type: ignore[arg-type]
    inputs, labels = job.train[0]  # type: ignore[index]
    loss = job.loss(job.model()(inputs[None].expand(2, -1)), labels.expand(2))  # type: ignore[misc]
    loss.backward()
    assert torch.isfinite(loss)
