"""``characters`` learns from any text, keeps its last tenth for validation, and says what is wrong with a bad file."""

from pathlib import Path

import pytest

import torchspeed
from torchspeed.errors import DataError
from torchspeed.recipes import characters

SENTENCE = "A sentence that is said again and again is soon known by heart.\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(SENTENCE * 100)
    return path


def test_the_loss_falls_on_a_text_that_repeats(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(characters, "CONTEXT", 32)
    monkeypatch.setattr(characters, "WIDTH", 24)
    job = torchspeed.load_job("characters", data=str(text), batch_size=8, epochs=1)
    result = torchspeed.train(job, run_dir=tmp_path / "run", device="cpu", progress=False)
    assert result.steps == 23
    assert result.loss is not None
    assert result.loss < 2.6  # a guess among its 20 characters costs 3.0


def test_the_last_tenth_is_for_validation(text: Path) -> None:
    job = torchspeed.load_job("characters", data=str(text))
    tenth = len(SENTENCE) * 10
    assert len(job.train.tokens) == 9 * tenth  # type: ignore[union-attr]
    assert characters.windows(str(text))[2].decode(job.valid.tokens) == SENTENCE * 10  # type: ignore[union-attr]


def test_the_schedule_ends_with_the_epochs_asked_for(text: Path) -> None:
    steps = [
        dict(torchspeed.load_job("characters", data=str(text), **asked).schedule.options)["steps"]  # type: ignore[union-attr]
        for asked in ({"epochs": 2.0}, {"epochs": 0.5}, {"epochs": 2.0, "batch_size": 3})
    ]
    assert steps == [6, 2, 16]


def test_a_text_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("To be, or not to be")
    with pytest.raises(DataError, match=r"short\.txt: 19 characters; .* give 2,570 or more"):
        torchspeed.load_job("characters", data=str(short))


def test_a_missing_file_and_another_encoding_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: cannot be read"):
        torchspeed.load_job("characters", data=str(tmp_path / "none.txt"))
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9" * 1000)
    with pytest.raises(DataError, match=r"latin\.txt: byte 3 \(0xe9\) is not UTF-8"):
        torchspeed.load_job("characters", data=str(latin))


def test_without_a_file_it_reads_the_sources_of_python() -> None:
    job = torchspeed.load_job("characters")
    assert len(job.train) > 1000  # type: ignore[arg-type]


def test_the_plays_of_shakespeare_fit(shared: Path) -> None:
    path = shared / "shakespeare" / "input.txt"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is absent")
    job = torchspeed.load_job("characters", data=str(path))
    inputs, targets = job.train[0]  # type: ignore[index]
    loss = characters.nats_per_character(job.model()(inputs[None]), targets[None])
    loss.backward()
    assert 4.0 < float(loss.detach()) < 4.4  # a guess among its 65 characters costs 4.17
