"""``Trial``: a fresh process that runs one plan, stopped whenever it is not asked to do something.

A crash, a hang and a lack of memory end the trial and nothing else: all of them are ``TrialFailed`` with the sentence
what happened. The processes of a trial (loader workers too) are a group of their own, stopped between requests, so that
of two live trials only one computes at a time; nothing of them is left when the trial is closed.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchspeed.measure.stepper import Block
from torchspeed.plan import Plan


class TrialFailed(Exception):
    """A trial ended early. ``memory``: for lack of memory. ``timed_out``: it was stopped because it took too long."""

    def __init__(self, sentence: str, *, memory: bool = False, timed_out: bool = False) -> None:
        super().__init__(sentence)
        self.memory = memory
        self.timed_out = timed_out


class Trial:
    """One process. ``losses`` are those of all its steps so far; ``ready`` is what it said when it was built;
    ``first_seconds`` what its first steps took more than as many later ones, ``step_seconds`` the quickest of them.

    environment: variables of the process, those of the plan's PROCESS levers among them. folder: of its own, for its
    output and its evidence.
    """

    def __init__(self, plan: Plan, folder: Path, environment: dict[str, str]) -> None:
        self.plan, self.folder = plan, folder
        folder.mkdir(parents=True)
        self.losses: list[float] = []
        self.steps = 0
        self.ready: dict[str, Any] = {}
        self.first_seconds = self.start_seconds = self.step_seconds = 0.0
        child_reads, self._requests = os.pipe()
        self._answers, child_writes = os.pipe()
        self._pending = b""
        with (folder / "output.txt").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "torchspeed.tuning.worker", str(child_reads), str(child_writes)],
                env=environment,
                pass_fds=(child_reads, child_writes),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.close(child_reads)
        os.close(child_writes)
        self.closed = False

    def __enter__(self) -> "Trial":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def start(self, source: Path, device: str | None, timeout: float, seed: int | None = None) -> None:
        """Load the job and build its run."""
        began = time.perf_counter()
        self.ready = self.ask(
            "start", timeout, source=str(source), plan=dict(self.plan.options), device=device, seed=seed, path=sys.path
        )
        self.start_seconds = time.perf_counter() - began

    def block(self, steps: int, timeout: float) -> Block:
        """``steps`` timed steps."""
        answer = self.ask("block", timeout, steps=steps)
        block = Block(**{**answer, "losses": tuple(answer["losses"])})
        self.losses += block.losses
        self.steps += steps
        return block

    def ask(self, what: str, timeout: float, **arguments: Any) -> Any:
        """Send a request, wait for the answer. Raises TrialFailed, and the trial is over then."""
        deadline = time.monotonic() + timeout
        try:
            self._signal(signal.SIGCONT)
            try:
                os.write(self._requests, (json.dumps({"do": what, **arguments}) + "\n").encode())
            except BrokenPipeError:
                raise self._ended(what) from None
            while b"\n" not in self._pending:
                readable, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
                if not readable:
                    raise TrialFailed(f"no answer within {timeout:.0f} s ({_DOING.get(what, what)})", timed_out=True)
                read = os.read(self._answers, 1 << 20)
                if not read:
                    raise self._ended(what)
                self._pending += read
            line, _, self._pending = self._pending.partition(b"\n")
            answer = json.loads(line)
            if isinstance(answer, dict) and "error" in answer:
                raise TrialFailed(answer["error"], memory=answer["memory"])
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End the trial and every process of it."""
        if self.closed:
            return
        self.closed = True
        for descriptor in (self._requests, self._answers):
            os.close(descriptor)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _ended(self, what: str) -> TrialFailed:
        code = self._process.wait()
        last = self._last_line()
        doing = _DOING.get(what, what)
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return TrialFailed(f"the process was ended by {name}{hint} ({doing}){last}", memory=name == "SIGKILL")
        return TrialFailed(f"the process ended with code {code} ({doing}){last}")

    def _last_line(self) -> str:
        text = (self.folder / "output.txt").read_text(errors="replace")[-2000:].strip()
        return f": {text.splitlines()[-1][:200]}" if text else ""

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


_DOING = {
    "start": "while its data were opened and its model built",
    "block": "in its training steps",
    "evaluate": "in its evaluation",
    "gradients": "while gradients were compared",
    "stream": "while batches were compared",
    "evaluation": "in its evaluation",
}
