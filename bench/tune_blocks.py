"""Interleaved blocks of several contenders for ``tune.py``, each in a process of its own (``tune_worker.py``).

Between its blocks a process is stopped by signal: threads that spin while they wait for work would take the cores from
the others. The order turns by one each round, so that nobody always follows the same.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torchspeed
from common import console
from torchspeed.measurement import Spread, ratio

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("tune_worker.py")
JOBS = Path(__file__).with_name("tune_jobs.py")
PEERS = ROOT / ".venv-peers" / "bin" / "python"
END_SECONDS = 20.0


@dataclass(frozen=True)
class Contender:
    """``by``: torchspeed, matrix, or a loop of ``tune_peers.py``; ``work``: one of ``tune_work.WORKS`` or a recipe."""

    label: str
    by: str
    work: str
    plan: torchspeed.Plan = field(default_factory=torchspeed.Plan)
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def python(self) -> str:
        return str(PEERS) if self.by in ("accelerate", "lightning") else sys.executable

    def spec(self, data: Path | None) -> dict[str, Any]:
        from tune_work import WORKS

        work = f"{JOBS}:{self.work}" if self.by == "torchspeed" and self.work in WORKS else self.work
        plan = dict(self.plan.options)
        return {"by": self.by, "work": work, "data": data and str(data), "plan": plan, "flags": dict(self.flags)}


class Failed(Exception):
    """A contender's process ended; the message is its last words."""


class Worker:
    """One contender's process, warmed up: ``about`` is what it said of itself, ``rates`` its samples per second."""

    def __init__(self, contender: Contender, data: Path | None, caches: Path) -> None:
        self.contender = contender
        self.rates: list[float] = []
        self.blocks: list[dict[str, Any]] = []
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed in close
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [contender.python, str(WORKER), json.dumps(contender.spec(data))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, **caches_in(caches), **process_environment(contender.plan)},
            text=True,
        )
        self.about = self._answer()
        self.about["start_seconds"] = time.perf_counter() - began

    def block(self, seconds: float) -> float:
        """About ``seconds`` of steps, one at least; samples per second."""
        assert self.process.stdin is not None
        steps = max(1, round(seconds / self.about["step_seconds"]))
        self.process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # the answer that does not come is told
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        found = {"steps": steps, **self._answer()}
        if not math.isfinite(found["loss"]):
            raise Failed(f"{self.contender.label}: the loss is {found['loss']}")
        self.about["step_seconds"] = found["seconds"] / steps
        self.blocks.append(found)
        self.rates.append(steps * self.about["batch_size"] / found["seconds"])
        return self.rates[-1]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise Failed(f"{self.contender.label}: the process ended.\n{self.errors.read()[-4000:]}")
        self.process.send_signal(signal.SIGSTOP)
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # which ends it, and what it started
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def running(
    contenders: Sequence[Contender], data: Path | None, caches: Path, may_fail: bool = False
) -> Iterator[dict[str, Worker]]:
    """Workers by label, started one after the other, so that their warm-up times are their own.

    Raises Failed; with ``may_fail``, who does not run is left out.
    """
    workers: dict[str, Worker] = {}
    try:
        for contender in contenders:
            try:
                workers[contender.label] = start(contender, data, caches)
            except Failed as reason:
                if not may_fail:
                    raise
                console.print(f"  {reason}")
        yield dict(workers)
    finally:
        for worker in workers.values():
            worker.close()


def start(contender: Contender, data: Path | None, caches: Path) -> Worker:
    worker = Worker(contender, data, caches)
    console.print(f"  {contender.label}: warm after {worker.about['start_seconds']:.1f} s")
    for sentence in worker.about.get("skipped", ()):
        console.print(f"    {sentence}")
    return worker


def interleave(workers: Sequence[Worker], blocks: int, seconds: float) -> None:
    """``blocks`` rounds; ``rates`` of all workers then have the same length, and pair block by block."""
    for worker in workers:
        worker.rates.clear()
        worker.blocks.clear()
    order = list(workers)
    for _ in range(blocks):
        for worker in order:
            worker.block(seconds)
        order.append(order.pop(0))


def figures(worker: Worker, reference: Worker | None = None) -> dict[str, Any]:
    """What is kept of a worker: its rates and their spread, the paired ratio to ``reference``, what its start took."""
    found = {
        "samples_per_second": Spread.of(worker.rates),
        "blocks": list(worker.rates),
        "plan": dict(worker.contender.plan.options),
        "flags": dict(worker.contender.flags),
        **{name: worker.about[name] for name in ("start_seconds", "warmup_seconds", "first_step_seconds")},
        "processor_seconds_per_step": [block["processor_seconds"] / block["steps"] for block in worker.blocks],
        "applied": worker.about.get("applied", []),
        "skipped": worker.about.get("skipped", []),
    }
    return found if reference is None else {**found, "ratio": ratio(worker.rates, reference.rates)}


def process_environment(plan: torchspeed.Plan) -> dict[str, str]:
    return torchspeed.process_environment(plan, torchspeed.Machine.detect("cpu")) if plan.options else {}


def caches_in(folder: Path) -> dict[str, str]:
    """Nothing that an earlier run compiled or measured is of use to this one."""
    return {"XDG_CACHE_HOME": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
