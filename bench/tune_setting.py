"""What all parts of ``tune.py`` are measured with, and how a plan is come by: tuned here, or given."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchspeed
from common import console
from tune_blocks import JOBS, caches_in
from tune_work import WORKS


@dataclass(frozen=True)
class Setting:
    """``folder``: pictures, prepared. ``data``: as they were given. ``caches``: empty at first.

    budget: of one tuning, as ``torchspeed tune`` takes it. blocks, seconds: interleaved ones, and how long one is.
    works: those of the part ``cnn`` to measure. flags: what was best by hand in an earlier run, by work and family;
        {} to find out. plan: used in place of tuning, if not None. grid: what the
    part ``regret`` gave in an earlier run, whose grid is taken over.
    """

    data: Path
    folder: Path
    caches: Path
    budget: str
    blocks: int
    seconds: float
    quick: bool
    works: tuple[str, ...]
    flags: Mapping[str, dict[str, dict[str, Any]]]
    plan: torchspeed.Plan | None
    grid: Mapping[str, Any]

    def data_of(self, work: str) -> Path | None:
        """What the job ``work``, one of ours or a recipe, reads."""
        if work in WORKS:
            return self.folder
        return self.data / RECIPE_DATA[work] if work in RECIPE_DATA else None


RECIPE_DATA = {"spoken-digits": "spoken_digits", "characters": "shakespeare/input.txt", "cifar10": "cifar10"}


@dataclass(frozen=True)
class Tuned:
    """A plan, the seconds that ``torchspeed tune`` took for it from start to end, and what it printed."""

    plan: torchspeed.Plan
    seconds: float
    said: dict[str, Any]


_TUNED: dict[tuple[str, tuple[str, ...], str], Tuned] = {}


def tuned(setting: Setting, work: str, levers: tuple[str, ...] = (), budget: str = "") -> Tuned:
    """The plan for a job; asked for again, it is not tuned again.

    levers: no others are tried. budget: another than the setting's. Raises SystemExit with what the command said.
    """
    if setting.plan is not None:
        return Tuned(setting.plan, 0.0, {})
    budget = budget or setting.budget
    if (work, levers, budget) in _TUNED:
        return _TUNED[work, levers, budget]
    reference = f"{JOBS}:{work}" if work in WORKS else work
    out = setting.caches / f"{work}-{len(levers)}.toml"
    command = [sys.executable, "-m", "torchspeed", "tune", reference, "--budget", budget, "--out", str(out)]
    data = setting.data_of(work)
    command += ["--device", "cpu", "--json", *(["--data", str(data)] if data else [])]
    command += [f"--lever={name}" for name in levers]
    console.print(f"torchspeed tune {reference} --budget {budget} {' '.join(levers)}".rstrip())
    began = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **caches_in(setting.caches)})
    seconds = time.perf_counter() - began
    if ended.returncode:
        raise SystemExit(f"ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
    said: dict[str, Any] = json.loads(ended.stdout)
    plan = torchspeed.Plan.from_mapping(said["plan"])
    console.print(f"  {seconds:.0f} s: {plan}")
    _TUNED[work, levers, budget] = Tuned(plan, seconds, said)
    return _TUNED[work, levers, budget]


def show_levers(said: dict[str, Any]) -> None:
    """Every lever that a tuning tried, as it says itself; then what each kept one is worth in the whole plan."""
    for lever in said.get("levers", ()):
        verdict = "kept" if lever["kept"] else "refused"
        console.print(
            f"  {lever['lever']}={lever['option']}: {_factor(lever)}{verdict}: {lever['why']}; {lever['proof']}"
        )
    for lever in said.get("ablation", ()):
        console.print(f"  the plan without {lever['lever']} ÷ the plan: {_factor(lever)}".rstrip(", "))


def _factor(lever: dict[str, Any]) -> str:
    if lever["speedup"] is None:
        return ""
    low, high = lever["interval"]
    return f"{lever['speedup']:.3f}× [{low:.3f}, {high:.3f}], "
