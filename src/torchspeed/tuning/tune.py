"""``tune(job)``: the plan that is fastest on this machine and still right.

A walk uphill, one lever at a time: each candidate runs in a fresh process against the plan found so far. What is faster
is then held against the job as written (batches, losses, gradients at equal weights), must fit into memory and must pay
back its first steps within the run that the job asks for. Levers that lost are tried once more on top of the others.
At the end each lever of the plan is taken out once, and the plan is measured against the job as written.
"""

import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from torchspeed.errors import JobError, PlanError
from torchspeed.fingerprint import own_code
from torchspeed.job import Job
from torchspeed.lever import Guarantee, Lever
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine, busy, environment_of_training
from torchspeed.measurement import Provenance
from torchspeed.tuning import store
from torchspeed.tuning.climb import Climb
from torchspeed.tuning.laboratory import Laboratory
from torchspeed.tuning.result import Tuning
from torchspeed.tuning.source import Source, write_source

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def tune(
    job: Job,
    *,
    budget: str | float = "5m",
    levers: Iterable[str] | None = None,
    device: str | None = None,
    memory: str | int | None = None,
    source: Source | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """The fastest plan for ``job`` on this machine that keeps the result, with its evidence.

    budget: wall-clock time, seconds or "90s", "5m", "1h". levers: names of those that may be tried; None is all that
    keep the result. memory: bytes that a plan may use at most, or "8GiB"; None is nearly all that the device has.
    source: a function that makes the job anew in each fresh process, where the job itself should not be sent there.
    fresh: measure again what was tuned before. say: receives a line for each thing that is tried.

    Raises JobError when the job fails as written, cannot be sent to another process, or is not ready within the budget;
    PlanError for an unknown lever or a budget or memory that cannot be read. A lever that fails is no error.
    """
    if not isinstance(job, Job):
        raise JobError(f"tune() takes a Job; found {job!r}. torchspeed.load_job('job.py') makes one")
    seconds = read_duration(budget)
    allowed = read_bytes(memory)
    chosen = _levers(levers)
    machine = Machine.detect(device)
    question = {
        "job": job.fingerprint,
        "machine": machine.fingerprint,
        "levers": {lever.name: lever.fingerprint for lever in chosen},
        "memory": allowed,
        "environment": environment_of_training(),
        "code": own_code(),
    }
    name = store.key(question)
    known = None if fresh else store.load(name, seconds)
    if known is not None:
        return known
    with tempfile.TemporaryDirectory(prefix="torchspeed-tune-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "job.pickle"
        write_source(source or job, path)
        began = time.monotonic()
        with Laboratory(Path(folder), path, machine, device, began + seconds) as laboratory:
            climb = Climb(laboratory, {lever.name: lever for lever in chosen}, allowed or _most_memory(machine), say)
            tuning = _tuned(climb, job, machine, seconds, began)
    note = store.save(name, tuning)
    return replace(tuning, notes=(*tuning.notes, note)) if note else tuning


def _tuned(climb: Climb, job: Job, machine: Machine, budget: float, began: float) -> Tuning:
    load = busy(machine)
    if load:
        climb.notes.append(f"{load}: speeds are lower and less certain than on a machine of its own")
    climb.climb(climb.begin())
    ablation = climb.take_out_each()
    speedup = climb.against_as_written() if climb.plan.options else None
    baseline = 1 / climb.baseline_seconds
    return Tuning(
        job=job.name,
        machine=str(machine),
        date=Provenance.here(machine).date,
        plan=climb.plan,
        baseline_samples_per_second=baseline,
        tuned_samples_per_second=baseline if speedup is None else baseline * speedup.ratio,
        speedup=speedup,
        tried=tuple(climb.tried),
        ablation=tuple(ablation),
        parts=climb.parts,
        noise=climb.noise,
        first_seconds=climb.incumbent.first_seconds,
        seconds=time.monotonic() - began,
        budget=budget,
        complete=climb.complete,
        notes=tuple(climb.notes),
    )


def read_duration(text: str | float) -> float:
    """Seconds in "90s", "5m", "1h" or a number. Raises PlanError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", str(text).lower())
    if found is None or found[2] not in _UNITS or not 0 < float(found[1]) * _UNITS[found[2]] < 1e9:
        raise PlanError(f"a budget is a time such as 90s, 5m or 1h; found {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def read_bytes(text: str | int | None) -> int:
    """Bytes in "8GiB", "500MB" or a number; 0 for None. Raises PlanError."""
    if text is None:
        return 0
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    if found is None or float(found[1]) == 0:
        raise PlanError(f"memory is a number of bytes such as 8GiB or 500MB; found {text!r}")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2] or " "))


def _levers(names: Iterable[str] | None) -> list[Lever]:
    if names is None:
        return [lever for lever in REGISTRY.values() if lever.guarantee is not Guarantee.GOAL]
    chosen = []
    for name in dict.fromkeys(names):
        if name not in REGISTRY:
            raise PlanError(f"unknown lever {name!r}; valid: {', '.join(sorted(REGISTRY))}")
        if REGISTRY[name].guarantee is Guarantee.GOAL:
            raise PlanError(f"{name} changes the result (GOAL), so tune never chooses it; search does")
        chosen.append(REGISTRY[name])
    return chosen


def _most_memory(machine: Machine) -> int:
    """Bytes that a training may use where nothing else was said: a tenth is left to the others."""
    return int(0.9 * (machine.memory if machine.device == "cpu" else machine.device_memory)) or 1 << 62
