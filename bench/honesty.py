"""Does ``tune`` claim what is not there, and does it believe what is not true? Measured, not promised.

- ``same``: two identical plans, compared again and again: how often is a gain claimed? (At most 2 % are allowed.)
- ``lies``: levers that are as fast as an honest one and wrong, or not worth it: each must be refused every time.
- ``truth``: a lever that takes out idle time of 5 % of a step must be found in 19 of 20 trials.

Each comparison has a fresh process, through the very code that ``tune`` runs.
``bench/honesty.py [same] [lies] [truth]``: each part keeps the results of the others. A part needs one core: two can
run at a time, pinned to a core each.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import planted
import torchspeed
from common import RESULTS, console, provenance, show, write
from torchspeed.machine import Machine
from torchspeed.tuning.candidates import Candidate
from torchspeed.tuning.climb import Climb
from torchspeed.tuning.laboratory import Laboratory
from torchspeed.tuning.result import Tried
from torchspeed.tuning.source import write_source

ALLOWED = 900 << 20
HOURS = 3
SHARE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", default=[], choices=["same", "lies", "truth", []], help="same, lies, truth; all by default"
    )
    parser.add_argument("--comparisons", type=int, default=200, help="of identical plans")
    parser.add_argument("--trials", type=int, default=20, help="of each lie, and of the truth")
    parser.add_argument("--lies", type=int, default=len(planted.LIES), help="the first so many of them")
    chosen = parser.parse_args()
    about = provenance("cpu")
    planted.register()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "same": lambda: same(chosen.comparisons),
        "lies": lambda: lies(chosen.trials, chosen.lies),
        "truth": lambda: truth(chosen.trials),
    }
    for name in chosen.parts or parts:
        began = time.monotonic()
        found = parts[name]() | {"seconds": round(time.monotonic() - began), "date": about["date"]}
        path = RESULTS / "honesty.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        kept = {part: known[part] for part in parts if part in known}
        write("honesty", about, {**kept, name: found})


def same(comparisons: int) -> dict[str, Any]:
    """Identical plans, a fresh process for each comparison; a new incumbent for every tenth."""
    ratios, claims = [], 0
    for start in range(0, comparisons, 10):
        with climbing(planted.planted_job) as climb:
            for _ in range(min(10, comparisons - start)):
                tried = attempt(climb, "planted_same")
                claims += tried.kept
                if tried.interval is not None:
                    ratios.append(tried.interval.ratio)
        console.print(f"same: {claims} gains claimed in {start + 10} comparisons")
    spread = statistics.quantiles(ratios, n=20)
    show(
        "two identical plans",
        ["comparisons", "gains claimed", "allowed", "ratio, 5 % to 95 %"],
        [[comparisons, claims, f"{0.02 * comparisons:g}", f"{spread[0]:.3f} to {spread[-1]:.3f}"]],
    )
    return {"comparisons": comparisons, "claimed": claims, "ratio_5_percent": spread[0], "ratio_95_percent": spread[-1]}


def lies(trials: int, count: int) -> dict[str, Any]:
    """Each lie, again and again."""
    found: dict[str, Any] = {}
    with climbing(planted.planted_job) as climb:
        for lie in planted.LIES[:count]:
            tried = [attempt(climb, lie.name) for _ in range(trials)]
            reasons = Counter(_reason(one) for one in tried)
            speedups = [one.interval.ratio for one in tried if one.interval is not None]
            found[lie.name] = {
                "trials": trials,
                "refused": sum(not one.kept for one in tried),
                "median_speedup": statistics.median(speedups) if speedups else None,
                "reasons": dict(reasons),
            }
            console.print(f"{lie.name}: {found[lie.name]}")
    rows = [
        [k, f"{v['refused']} of {v['trials']}", f"{v['median_speedup']:.2f}×", max(v["reasons"])]
        for k, v in found.items()
    ]
    show("planted lies", ["lie", "refused", "as fast as", "because"], rows)
    return found


def truth(trials: int) -> dict[str, Any]:
    """Idle time of a twentieth of the step, taken out."""
    idle = _idle_for(SHARE)
    found: list[Tried] = []
    for _ in range(trials):
        with climbing(_Idle(idle)) as climb:
            found.append(attempt(climb, "planted_truth"))
        console.print(f"truth: {found[-1].kept}, {found[-1].interval}, {found[-1].why}")
    kept = sum(one.kept for one in found)
    ratios = [one.interval.ratio for one in found if one.interval is not None]
    show("5 % to be found", ["trials", "found", "median ratio"], [[trials, kept, f"{statistics.median(ratios):.3f}"]])
    return {"trials": trials, "found": kept, "idle_seconds": idle, "median_ratio": statistics.median(ratios)}


class _Idle:
    """``planted_job`` with another idle time, to be sent by name."""

    def __init__(self, idle: float) -> None:
        self.idle = idle

    def __call__(self) -> torchspeed.Job:
        return planted.planted_job(self.idle, epochs=2_000)


def _idle_for(share: float) -> float:
    """Seconds that are ``share`` of a step which has them."""
    with climbing(_Idle(0.0)) as climb:
        seconds = climb.baseline_seconds * planted.BATCH
    return seconds * share / (1 - share)


@contextmanager
def climbing(make: Callable[[], torchspeed.Job]) -> Iterator[Climb]:
    """A tuning that has begun, with the planted levers and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "job"
        write_source(make, source)
        machine = Machine.detect("cpu")
        with Laboratory(Path(folder), source, machine, "cpu", time.monotonic() + 3600 * HOURS) as laboratory:
            laboratory.limit = 120.0
            climb = Climb(laboratory, {lever.name: lever for lever in planted.PLANTED}, ALLOWED, lambda line: None)
            climb.begin()
            yield climb


def attempt(climb: Climb, lever: str) -> Tried:
    """Try it as ``tune`` does; what is kept is put back afterwards."""
    tried = climb.attempt(Candidate(lever, "on"))
    assert tried is not None
    if tried.kept:
        climb.put_back()
    return tried


def _reason(tried: Tried) -> str:
    words = (tried.proof if "not keep the result" in tried.why else tried.why).split()
    return " ".join("#" if any(c.isdigit() for c in word) else word for word in words)


if __name__ == "__main__":
    main()
