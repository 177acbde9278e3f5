"""A run directory: what was run, what happened, and the state to go on from.

job.json        the job by name, its reference, and a digest of each of its fields
plan.toml       the plan
metrics.jsonl   a line per logged step and per evaluation
checkpoints/    see torchspeed.engine.checkpoint
result.json     at the end
"""

import json
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from torchspeed.engine.events import to_json
from torchspeed.errors import CheckpointError, RunDirectoryError, StorageError
from torchspeed.job import Job
from torchspeed.plan import Plan

Reference = dict[str, Any]


class RunDirectory:
    """Paths of a run, and the checks that it can be written before anything is computed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = path / "job.json"
        self.plan = path / "plan.toml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.result = path / "result.json"
        self.lock = FileLock(path / ".lock", timeout=0)
        self.made = False  # the directory itself
        self.created = False  # the run in it

    @classmethod
    def for_new(cls, path: str | Path | None, name: str) -> "RunDirectory":
        """A directory that does not hold a run yet; by default ``runs/NAME-DATE-TIME``. Nothing is made so far."""
        run = cls(_unused(name) if path is None else Path(path))
        if run.job.exists():
            raise RunDirectoryError(
                f"{run.path} already holds a run; go on with it by --resume {run.path}, or choose another --run-dir"
            )
        if taken := [place.name for place in run._places() if place.exists()]:
            raise RunDirectoryError(
                f"{run.path} already holds {', '.join(taken)}, which a run would write over; choose another --run-dir"
            )
        run._check_writable()
        return run

    @classmethod
    def existing(cls, path: str | Path) -> "RunDirectory":
        """The directory of a run that was begun. Raises CheckpointError if there is none."""
        run = cls(Path(path))
        if not run.job.is_file():
            raise CheckpointError(f"{run.path}: no run to resume: {run.job.name} is missing")
        run._check_writable()
        return run

    def create(self, job: Job, plan: Plan, reference: Reference) -> None:
        """Make the directory and write what is run."""
        about = {"name": job.name, "reference": reference, "fields": job.field_fingerprints}
        self.made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=not self.made)
            self.hold()
            self.created = True
            self.job.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            self.plan.write_text(plan.to_toml(), encoding="utf-8")
        except OSError as error:
            raise RunDirectoryError(f"{self.path}: cannot be written: {error.strerror}") from error

    def hold(self) -> None:
        """Keep every other process away until ``release``. Raises RunDirectoryError if one holds it already."""
        try:
            self.lock.acquire()
        except Timeout as error:
            raise RunDirectoryError(
                f"{self.path}: another process is training in it; wait for it or stop it"
            ) from error

    def release(self) -> None:
        """Let others in; nothing where another process holds it."""
        if self.lock.is_locked:
            Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()

    def discard(self) -> None:
        """Take back a run that failed before its first step was done; what else is in the directory stays."""
        self.release()
        for place in self._places():
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
        if self.made and not any(self.path.iterdir()):
            self.path.rmdir()

    def read_reference(self) -> Reference:
        """How the job was named on the command line."""
        return self._about("reference")

    def read_fields(self) -> dict[str, str]:
        """The digest of each field of the job that was run."""
        return self._about("fields")

    def _about(self, part: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.job.read_text(encoding="utf-8"))[part])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.job}: damaged: {error}") from error

    def write_result(self, result: dict[str, Any]) -> None:
        scratch = self.result.with_name(".result.json")
        try:
            scratch.write_text(to_json(result, indent=2) + "\n", encoding="utf-8")
            scratch.replace(self.result)
        except OSError as error:
            raise StorageError(f"{self.result}: cannot be written: {error.strerror}") from error

    def _places(self) -> tuple[Path, ...]:
        """All that a run writes."""
        return (self.job, self.plan, self.metrics, self.result, self.checkpoints, self.tensorboard)

    def _check_writable(self) -> None:
        """The nearest directory that exists must take files; said now, not after an hour of training."""
        place = self.path.absolute()
        while not place.exists() and not place.is_symlink():
            place = place.parent
        if not place.is_dir():
            raise RunDirectoryError(f"{self.path}: cannot be written: {place} is not a directory")
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot be written: {error.strerror} in {place}; choose another --run-dir"
            ) from error


def _unused(name: str) -> Path:
    """``runs/NAME-DATE-TIME``, with a number behind it if that is taken."""
    stem = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S.%f}"[:-3]
    number, path = 1, stem
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path
