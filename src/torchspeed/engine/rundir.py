"""A run directory: what was run, what happened, and the state to go on from.

job.json        the job by name, its reference, and a digest of each of its fields
plan.toml       the plan
metrics.jsonl   a line per logged step and per evaluation
checkpoints/    see torchspeed.engine.checkpoint
result.json     at the end
"""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

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
        self.made = False

    @classmethod
    def for_new(cls, path: str | Path | None, name: str) -> "RunDirectory":
        """A directory that does not hold a run yet; by default ``runs/NAME-DATE-TIME``. Nothing is made so far."""
        if path is None:
            stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
            path = Path("runs") / stem
            number = 1
            while path.exists():
                number += 1
                path = Path("runs") / f"{stem}-{number}"
        run = cls(Path(path))
        if run.job.exists():
            raise RunDirectoryError(
                f"{run.path} already holds a run; go on with it by --resume {run.path}, or choose another --run-dir"
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
            self.path.mkdir(parents=True, exist_ok=True)
            self.job.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            self.plan.write_text(plan.to_toml(), encoding="utf-8")
        except OSError as error:
            raise RunDirectoryError(f"{self.path}: cannot be written: {error.strerror}") from error

    def discard(self) -> None:
        """Take back a run that failed before its first step was done; what else is in the directory stays."""
        if self.made:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for folder in (self.checkpoints, self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.job, self.plan, self.metrics, self.result):
            file.unlink(missing_ok=True)

    def read_reference(self) -> Reference:
        """How the job was named on the command line."""
        try:
            return dict(json.loads(self.job.read_text(encoding="utf-8"))["reference"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.job}: damaged: {error}") from error

    def write_result(self, result: dict[str, Any]) -> None:
        scratch = self.result.with_name(".result.json")
        try:
            scratch.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            scratch.replace(self.result)
        except OSError as error:
            raise StorageError(f"{self.result}: cannot be written: {error.strerror}") from error

    def _check_writable(self) -> None:
        """The nearest directory that exists must take files; said now, not after an hour of training."""
        place = self.path.absolute()
        while not place.exists() and not place.is_symlink():
            place = place.parent
        if not place.is_dir():
            raise RunDirectoryError(f"{self.path}: cannot be written: {place} is not a directory")
        probe = place / f".torchspeed-{os.getpid()}"
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot be written: {error.strerror} in {place}; choose another --run-dir"
            ) from error
