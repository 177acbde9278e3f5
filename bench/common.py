"""What the benchmarks share: where a figure is from, how it is printed, and where it is kept.

A benchmark is one command. It prints machine, versions, date, n and spread, and writes all of it to
``bench/results/NAME.json``. None of them is a test: a figure depends on the machine, and a test must not.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from torchspeed import Machine
from torchspeed.measurement import Provenance, Spread

RESULTS = Path(__file__).resolve().parent / "results"
# Into a file or a pipe, rich would cut tables at 80 columns.
console = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def provenance(device: str | None = None) -> dict[str, Any]:
    """Machine, versions, date, and how busy the machine was (processes wanting to run, last minute), all printed."""
    here = Provenance.here(Machine.detect(device))
    machine = here.machine.as_dict()
    versions = machine.pop("versions")
    load = os.getloadavg()[0]
    console.print(str(here.machine))
    console.print(", ".join(f"{name} {number}" for name, number in versions.items()))
    console.print(f"{here.date}, load average {load:.2f}")
    return {"machine": machine, "versions": versions, "date": here.date, "load_average": load}


def write(name: str, about: Mapping[str, Any], figures: Mapping[str, Any]) -> Path:
    """Keep ``figures`` with what ``provenance`` gave, in ``bench/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**about, **figures}, indent=2, default=_plain) + "\n", encoding="utf-8")
    console.print(f"written: {path}")
    return path


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on the terminal: the first column is a name, the others are figures."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


def _plain(value: object) -> Any:
    if isinstance(value, Spread):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
