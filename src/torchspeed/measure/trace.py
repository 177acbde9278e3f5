"""A few steps as a trace for chrome://tracing, Perfetto or TensorBoard, with the parts of a step as named ranges.

Source: https://docs.pytorch.org/docs/stable/profiler.html
"""

import os
from contextlib import suppress
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

from torchspeed.engine.step import make_step
from torchspeed.errors import StorageError
from torchspeed.measure.clock import synchronize
from torchspeed.measure.parts import Walk
from torchspeed.run import Mark, Run, Step

STEPS = 3


def check_writable(path: Path) -> None:
    """Raise StorageError if a trace cannot be written to ``path``, before anything is measured for it."""
    new = not path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise StorageError(f"--trace {path}: cannot be written: {error.strerror}; name another file") from error
    if new:
        path.unlink()


def write_trace(run: Run, path: Path, *, steps: int = STEPS) -> None:
    """Take ``steps`` steps, after another one (the weights move), and write what they did to ``path``.

    A name that ends in .gz is compressed. Raises StorageError, StepFailed.
    """
    order: list[str] = []
    walk = Walk(run)
    walk.step(_taken(run, order.append), order.append)
    ranges = _Ranges(order)
    take = _taken(run, ranges)
    activities = [ProfilerActivity.CPU]
    if run.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            ranges.begin()
            walk.step(take, ranges)
        synchronize(run.device)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        profiler.export_chrome_trace(str(partial))
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"--trace {path}: could not be written: {error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _taken(run: Run, mark: Mark) -> Step:
    return make_step(run) if run.step_wrappers else make_step(run, mark)


class _Ranges:
    """A range begins where the part before it ends, and then its name must be known; marks come after their part. So
    ``order`` tells the parts of a step, each of which has the same in the same order."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    def begin(self, number: int = 0) -> None:
        self.number = number
        self.open = record_function(self.order[number])
        self.open.__enter__()  # type: ignore[no-untyped-call]

    def __call__(self, part: str) -> None:
        """A part is over, and the next one begins."""
        self.open.__exit__(None, None, None)
        if self.number + 1 < len(self.order):
            self.begin(self.number + 1)
