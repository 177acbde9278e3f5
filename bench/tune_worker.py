"""One contender of ``tune.py`` in a process of its own: it trains for ever, and rests between the blocks.

    python tune_worker.py SPEC          # JSON: by, work, data, and plan (torchspeed) or flags (the others)

Whoever trains calls ``Pace.step`` after each step of its own loop, whatever that loop is; there the process waits until
the next block is asked for, so nobody's loop is taken apart to be measured. Talks over two pipes: a line of JSON about
itself after the warm-up; then for every line with a number of steps, one with what they took. One step before each
block is not counted.
"""

import ctypes
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WARMUP_STEPS = 4  # after the first
WARMUP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1

Spec = dict[str, Any]
Notes = dict[str, Any]


class Pace:
    """Called after every step. ``about``: what the first line says besides the times."""

    def __init__(self, tell: Callable[[Notes], None]) -> None:
        self.about: Notes = {"torch": torch.__version__}
        self._tell = tell
        self._blocks = self._run()
        next(self._blocks)

    def step(self, loss: Tensor) -> None:
        """Raises SystemExit when no more blocks are wanted."""
        self._blocks.send(loss)

    def _run(self) -> Generator[None, Tensor, None]:
        began = time.perf_counter()
        yield
        first, steps = time.perf_counter(), 0
        while steps < WARMUP_STEPS and (not steps or time.perf_counter() - first < WARMUP_SECONDS):
            before = time.perf_counter()
            yield
            steps += 1
        now = time.perf_counter()
        times = {"first_step_seconds": first - began, "warmup_seconds": now - began, "step_seconds": now - before}
        self._tell({**self.about, **times})
        for line in sys.stdin:
            yield
            began, used = time.perf_counter(), time.process_time()
            for _ in range(int(line)):
                loss = yield
            seconds = time.perf_counter() - began
            self._tell({"seconds": seconds, "processor_seconds": time.process_time() - used, "loss": float(loss)})
        raise SystemExit


def torchspeed(spec: Spec, pace: Pace) -> None:
    """Any job with a plan. The process was started with what the plan wants of its environment."""
    import torchspeed
    from torchspeed.engine.step import make_step

    job = torchspeed.load_job(spec["work"], data=spec["data"])
    run = torchspeed.build(job, torchspeed.Plan.from_mapping(spec["plan"]), torchspeed.Machine.detect("cpu"))
    pace.about |= {"batch_size": job.batch_size, "applied": run.applied, "skipped": run.skipped}
    step = make_step(run)
    for epoch in itertools.count():
        for batch in run.loader.epoch(epoch):
            pace.step(step(batch))


def by_hand(spec: Spec, pace: Pace) -> None:
    """A loop of ``tune_peers.py``."""
    import tune_peers
    from tune_work import WORKS

    work = WORKS[spec["work"]]
    pace.about["batch_size"] = work.batch_size
    getattr(tune_peers, spec["by"])(work, Path(spec["data"]), tune_peers.Flags(**spec["flags"]), pace.step)


def matrix(spec: Spec, pace: Pace) -> None:
    """A product of square matrices in bf16 per "step", of the size that is quickest here: the limit."""
    found = []
    for side in (1024, 2048, 4096):
        a, b = (torch.randn(side, side).bfloat16() for _ in range(2))
        torch.mm(a, b)
        began = time.perf_counter()
        for _ in range(3):
            torch.mm(a, b)
        found.append((3 * 2 * side**3 / (time.perf_counter() - began), side))
    _, side = max(found)
    a, b = (torch.randn(side, side).bfloat16() for _ in range(2))
    pace.about |= {"batch_size": 1, "side": side, "flops_per_step": 2 * side**3}
    while True:
        pace.step(torch.mm(a, b)[0, 0])


def end_with_parent() -> None:
    """A stopped process would not see that its pipe was closed. On Linux alone there is a way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    end_with_parent()
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what packages print is not an answer
    spec: Spec = json.loads(sys.argv[1])
    pace = Pace(lambda notes: print(json.dumps(notes), file=replies))
    torch.manual_seed(0)
    {"torchspeed": torchspeed, "matrix": matrix}.get(spec["by"], by_hand)(spec, pace)


if __name__ == "__main__":
    main()
