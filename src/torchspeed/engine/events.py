"""What happens in a training, as data, and the sinks it goes to: ``metrics.jsonl``, TensorBoard, the terminal."""

import importlib
import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Started:
    """Before the first step. ``notes``: sentences on what was applied, skipped or resumed."""

    name: str
    machine: str
    run_dir: str
    goal: str
    total_steps: int
    batch_size: int
    first_step: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StepLogged:
    """Every so many steps; ``loss`` is the mean since the event before. Seconds since the start of the run."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    samples_per_second: float
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """After each evaluation."""

    step: int
    epoch: float
    metric: str
    value: float
    loss: float
    goal_reached: bool | None
    seconds: float


@dataclass(frozen=True)
class Saved:
    """After each checkpoint; ``stalled`` is how many seconds training waited for it."""

    step: int
    path: str
    stalled: float


@dataclass(frozen=True)
class Finished:
    """After the last step; ``result`` is what ``result.json`` holds."""

    result: dict[str, Any]


Event = Started | StepLogged | Evaluated | Saved | Finished


class Sink(Protocol):
    """Whoever wants to know."""

    def handle(self, event: Event) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """``metrics.jsonl``: a line per evaluation and per logged step."""

    def __init__(self, path: Path, resume_after: int | None = None) -> None:
        if resume_after is not None:
            _drop_after(path, resume_after)
        self.file = path.open("w" if resume_after is None else "a", encoding="utf-8")

    def handle(self, event: Event) -> None:
        if isinstance(event, (StepLogged, Evaluated)):
            kind = "step" if isinstance(event, StepLogged) else "evaluation"
            self.file.write(to_json({"event": kind, **vars(event)}) + "\n")
            if kind == "evaluation":
                self.file.flush()
        elif isinstance(event, Saved):
            self.file.flush()

    def close(self) -> None:
        self.file.close()


class TensorBoard:
    """Scalars for TensorBoard, in the run directory, where the package is installed.

    Of logged steps it takes one every half second and the last before each evaluation: a record costs more than a small
    step, and a plot has no more points than that to show.
    """

    SECONDS = 0.5

    @staticmethod
    def installed() -> bool:
        return importlib.util.find_spec("tensorboard") is not None

    def __init__(self, folder: Path) -> None:
        self.writer = importlib.import_module("torch.utils.tensorboard").FileWriter(str(folder))
        self.summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        self.waiting: StepLogged | None = None
        self.written = 0.0

    def handle(self, event: Event) -> None:
        if isinstance(event, StepLogged):
            self.waiting = event
            if event.seconds - self.written >= self.SECONDS:
                self.written = event.seconds
                self._write_waiting()
        elif isinstance(event, Evaluated):
            self._write_waiting()
            self._write(event.step, {f"valid/{event.metric}": event.value, "valid/loss": event.loss})

    def close(self) -> None:
        self._write_waiting()
        self.writer.close()

    def _write_waiting(self) -> None:
        if self.waiting is not None:
            names = ("loss", "learning_rate", "samples_per_second")
            self._write(self.waiting.step, {f"train/{name}": getattr(self.waiting, name) for name in names})
            self.waiting = None

    def _write(self, step: int, values: dict[str, float]) -> None:
        scalars = [self.summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.writer.add_summary(self.summary(value=scalars), step)


def to_json(values: dict[str, Any], indent: int | None = None) -> str:
    """``values`` as JSON, in which there is no NaN and no infinity: those become null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(finite, indent=indent, allow_nan=False)


def _drop_after(path: Path, step: int) -> None:
    """Forget what was logged after the checkpoint: those steps are taken again."""
    kept = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # a line torn by the kill
    path.write_text("".join(kept), encoding="utf-8")
