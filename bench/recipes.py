"""What a recipe reaches and how long that takes, over seeds.

    .venv/bin/python bench/recipes.py digits [--seeds 0 1 2] [--data PATH] [--set lever=option] [--as-written]

Each seed is one ``torchspeed train NAME --seed N``, the command that a user types, in a process and a run directory of
its own, one after the other. Whatever is said here is from the ``result.json`` of those runs; ``process_seconds`` alone
is from outside: the whole command, with the import of torch and the reading of the data.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from common import console, provenance, show, write

FIGURES = ("value", "seconds", "setup_seconds", "seconds_to_goal", "process_seconds", "steps", "samples_per_second")


@dataclass(frozen=True)
class OverSeeds:
    """Mean, sample standard deviation (None for one seed) and range of ``n`` runs; units are those of the values."""

    mean: float
    standard_deviation: float | None
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: list[float]) -> "OverSeeds":
        deviation = stdev(values) if len(values) > 1 else None
        return cls(fmean(values), deviation, min(values), max(values), len(values))


def train(name: str, seed: int, options: list[str], folder: Path) -> dict[str, Any]:
    """One run of the command; its ``result.json`` and the seconds of the whole process."""
    run = folder / f"{name}-{seed}"
    command = [sys.executable, "-m", "torchspeed", "train", name, "--seed", str(seed), "--run-dir", str(run), *options]
    console.print(f"torchspeed train {name} --seed {seed} {' '.join(options)}".rstrip())
    began = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process_seconds = time.perf_counter() - began
    if ended.returncode:
        raise SystemExit(f"ended with {ended.returncode}:\n{ended.stdout[-4000:]}")
    result: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    to_goal = result["seconds_to_goal"]
    console.print(
        f"  {result['metric']} {result['value']:.4f} in {result['seconds']:.1f} s, "
        + (f"goal after {to_goal:.1f} s" if to_goal is not None else "goal not reached")
    )
    return {**result, "process_seconds": process_seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a recipe: digits, cifar10, characters, spoken-digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", help="where the recipe reads its data from")
    parser.add_argument("--device", help="cuda, mps or cpu")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="LEVER=OPTION")
    parser.add_argument("--as-written", action="store_true", help="without the plan that lies beside the recipe")
    chosen = parser.parse_args()
    options = [f"--set={assignment}" for assignment in chosen.assignments]
    options += [f"--{name}={value}" for name in ("data", "device") if (value := getattr(chosen, name)) is not None]
    options += ["--as-written"] if chosen.as_written else []

    about = provenance(chosen.device)
    with tempfile.TemporaryDirectory() as folder:
        runs = [train(chosen.name, seed, options, Path(folder)) for seed in chosen.seeds]

    summary = {}
    for figure in FIGURES:
        values = [run[figure] for run in runs if run[figure] is not None]
        if values:
            summary[figure] = OverSeeds.of(values)
    first = runs[0]
    reached = sum(bool(run["goal_reached"]) for run in runs)
    show(
        f"{chosen.name}: {first['metric']}, goal {first['goal']}, reached by {reached} of {len(runs)} seeds; "
        f"plan: {', '.join(first['applied']) or 'as written'}",
        ["figure", "mean", "standard deviation", "min", "max", "n"],
        [(name, *map(_short, (s.mean, s.standard_deviation, s.low, s.high)), s.n) for name, s in summary.items()],
    )
    seen = ("seed", "goal_reached", *FIGURES)
    setting = {name: first[name] for name in ("name", "metric", "goal", "plan", "applied", "skipped")}
    figures = {
        **setting,
        "goal_reached_by": reached,
        "over_seeds": {name: asdict(spread) for name, spread in summary.items()},
        "runs": [{name: run[name] for name in seen} for run in runs],
    }
    write(f"recipe_{chosen.name}", about, figures)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


if __name__ == "__main__":
    main()
