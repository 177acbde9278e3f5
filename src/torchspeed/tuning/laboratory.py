"""Where trials are opened and closed: each a fresh process with its own folder, none left when the tuning ends."""

import shutil
import time
from pathlib import Path

from torchspeed.engine.resolve import process_environment
from torchspeed.machine import Machine, environment_with
from torchspeed.plan import Plan
from torchspeed.tuning.compare import steps_per_block
from torchspeed.tuning.trial import Trial

MOVED = "moved.safetensors"
SHARE_OF_A_TRIAL = 0.25
LEAST_LIMIT = 20.0
WARM_UP = 8
SHORT_WARM_UP = 3
SHARE_OF_WARM_UP = 0.01


class Laboratory:
    """Opens trials of the job in the file ``source`` until ``deadline`` (by ``time.monotonic``).

    weights: those that the first trial started with. Each trial saves those after its first steps as ``MOVED``.

    A single trial may take a quarter of the time that there was at the beginning. The number of first steps and the
    number of steps of a block are those that suit the first trial; all later ones take as many.
    """

    def __init__(self, folder: Path, source: Path, machine: Machine, device: str | None, deadline: float) -> None:
        self.folder, self.source, self.machine, self.device = folder, source, machine, device
        self.deadline = deadline
        self.limit = max(LEAST_LIMIT, SHARE_OF_A_TRIAL * self.remaining)
        self.warm_up_steps = 0
        self.block_steps = 1
        self.opened = 0
        self.weights = folder / "weights.safetensors"
        self._live: list[Trial] = []
        self._first_seconds: dict[str, float] = {}

    @property
    def remaining(self) -> float:
        return self.deadline - time.monotonic()

    def open(self, plan: Plan, *, seed: int | None = None) -> Trial:
        """A trial that is built and has taken its first steps. Raises TrialFailed.

        What it compiles and caches goes to the folder of the tuning and is gone afterwards.
        """
        self.opened += 1
        variables = {
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
            "TORCHSPEED_CACHE": str(self.folder / "cache"),
            **process_environment(plan, self.machine),
        }
        trial = Trial(plan, self.folder / f"trial-{self.opened}", environment_with(variables))
        self._live.append(trial)
        first = self.warm_up_steps == 0
        trial.start(self.source, self.device, max(self.remaining, LEAST_LIMIT) if first else self.limit, seed)
        if first:
            trial.ask("save_weights", self.limit, path=str(self.weights))
        self._warm_up(trial)
        trial.ask("save_weights", self.limit, path=str(trial.folder / MOVED))
        return trial

    def close(self, trial: Trial, *, evidence: bool = False) -> None:
        """End a trial. ``evidence``: its folder stays."""
        trial.close()
        if not evidence:
            shutil.rmtree(trial.folder, ignore_errors=True)
        if trial in self._live:
            self._live.remove(trial)

    def _warm_up(self, trial: Trial) -> None:
        seconds = [trial.block(1, self.limit).seconds for _ in range(2)]
        if not self.warm_up_steps:
            affordable = WARM_UP * seconds[1] < SHARE_OF_WARM_UP * self.remaining
            self.warm_up_steps = WARM_UP if affordable else SHORT_WARM_UP
            self.block_steps = steps_per_block(seconds[1])
        seconds += [trial.block(1, self.limit).seconds for _ in range(self.warm_up_steps - 2)]
        trial.step_seconds = min(seconds)
        key = str(trial.plan)  # what was compiled once is compiled faster the next time, here but not elsewhere
        cost = sum(seconds) - len(seconds) * min(seconds)
        trial.first_seconds = self._first_seconds[key] = max(cost, self._first_seconds.get(key, 0.0))

    def __enter__(self) -> "Laboratory":
        return self

    def __exit__(self, *raised: object) -> None:
        for trial in self._live:
            trial.close()
