"""Sinks write what happened: ``metrics.jsonl`` line by line, TensorBoard what its own reader reads back."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import torchspeed
from tiny import blobs_job
from torchspeed.engine.events import Evaluated, JsonLines, StepLogged, TensorBoard
from torchspeed.engine.progress import Terminal


def logged(step: int, seconds: float) -> StepLogged:
    return StepLogged(step=step, epoch=0.1, loss=2.0 / step, learning_rate=0.1, samples_per_second=9.0, seconds=seconds)


def evaluated(step: int) -> Evaluated:
    return Evaluated(step, 1.0, "accuracy", 0.5, 0.7, False, 1.0)


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        sink.handle(logged(step, 0.1))
    sink.handle(evaluated(3))
    sink.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "st')  # torn by the kill
    sink = JsonLines(tmp_path / "metrics.jsonl", resume_after=2)
    sink.handle(logged(3, 0.2))
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [("step", 1), ("step", 2), ("step", 3)]


def test_tensorboard_reads_it_back_thinned_out_but_with_the_last_before_an_evaluation(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = TensorBoard(tmp_path)
    for step in range(1, 11):
        sink.handle(logged(step, step * 0.2))
    sink.handle(evaluated(10))
    sink.close()
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3, 6, 9, 10]
    assert events.Scalars("train/loss")[0].value == pytest.approx(2 / 3)
    assert events.Scalars("valid/accuracy")[0].value == 0.5


def test_the_live_bar_shows_rates_loss_and_time_left(tmp_path: Path) -> None:
    console = Console(force_terminal=True, width=150, record=True, color_system=None)
    terminal = Terminal(console)
    torchspeed.train(blobs_job(), run_dir=tmp_path / "run", device="cpu", progress=False, sinks=[terminal], log_every=1)
    shown = console.export_text()
    for part in ("steps/s", "samples/s", "loss", "lr", "job: blobs, 48 steps", "accuracy", "run directory:"):
        assert part in shown
