"""Seconds before anything happens: ``import torch``, ``import torchspeed``, ``torchspeed --help``.

    .venv/bin/python bench/startup.py

Each time is a whole fresh process, interpreter included, from start to exit; the processes are interleaved, one of each
kind per round, after one round that counts for nothing (it brings the files into memory). ``import torchspeed`` loads
no torch; ``torchspeed.train`` does, so that is timed too: it is what a script waits for.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from common import console, provenance, show, write
from torchspeed.measurement import Spread, ratio

REFERENCE = "import torch"
TARGET_RATIO = 1.10
TARGET_HELP_SECONDS = 0.4

COMMANDS: dict[str, list[str]] = {
    "nothing": [sys.executable, "-c", "pass"],
    REFERENCE: [sys.executable, "-c", "import torch"],
    "import torchspeed": [sys.executable, "-c", "import torchspeed"],
    "torchspeed.train": [sys.executable, "-c", "import torchspeed; torchspeed.train"],
    "torchspeed --help": [str(Path(sys.executable).with_name("torchspeed")), "--help"],
}


def seconds(command: list[str]) -> tuple[float, float]:
    """(on the clock, of processor time): far apart, they say that somebody else was using the machine."""
    before, began = _processor_seconds(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, _processor_seconds() - before


def _processor_seconds() -> float:
    used = os.times()
    return used.children_user + used.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="fresh processes of each kind (default 15)")
    rounds: int = parser.parse_args().rounds

    about = provenance("cpu")
    for command in COMMANDS.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    processor: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            clock, used = seconds(command)
            times[name].append(clock)
            processor[name].append(used)

    spreads = {name: Spread.of(values) for name, values in times.items()}
    used_spreads = {name: Spread.of(values) for name, values in processor.items()}
    ratios = {name: ratio(values, times[REFERENCE]) for name, values in times.items()}
    show(
        "Fresh processes, start to exit. Median [quartiles]",
        ["process", "seconds", f"÷ {REFERENCE} (paired)", "seconds of processor"],
        [(name, spreads[name], ratios[name], f"{used_spreads[name].median:.3g}") for name in times],
    )
    targets = {
        f"import torchspeed ≤ {TARGET_RATIO} × {REFERENCE}": ratios["import torchspeed"].median <= TARGET_RATIO,
        f"torchspeed --help < {TARGET_HELP_SECONDS} s": spreads["torchspeed --help"].median < TARGET_HELP_SECONDS,
    }
    for target, met in targets.items():
        console.print(f"{target}: {'met' if met else 'missed'}")
    figures = {"seconds": spreads, "processor_seconds": used_spreads, "ratio_to_import_torch": ratios}
    write("startup", about, {**figures, "targets": targets, "runs": times})


if __name__ == "__main__":
    main()
