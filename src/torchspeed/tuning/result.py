"""``Tuning``: what ``tune`` found, every lever tried with its figures and the sentence why it was kept or refused."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from torchspeed.measure.statistics import Interval
from torchspeed.plan import Option, Plan


@dataclass(frozen=True)
class Tried:
    """One option of one lever, on top of the levers that were kept before it.

    interval: seconds without ÷ seconds with it; None where it was not timed. proof: how its guarantee was shown, or
    what contradicts it. first_seconds: what its first steps cost more (compilation). peak_memory: bytes.
    """

    lever: str
    option: Option
    interval: Interval | None
    proof: str
    kept: bool
    why: str
    first_seconds: float = 0.0
    peak_memory: int = 0

    @property
    def name(self) -> str:
        return f"{self.lever}={self.option}"

    def as_dict(self) -> dict[str, Any]:
        timed = self.interval
        return {
            "lever": self.lever,
            "option": self.option,
            "speedup": None if timed is None else timed.ratio,
            "interval": None if timed is None else [timed.low, timed.high],
            "pairs": None if timed is None else timed.n,
            "proof": self.proof,
            "kept": self.kept,
            "why": self.why,
            "first_seconds": self.first_seconds,
            "peak_memory": self.peak_memory,
        }


@dataclass(frozen=True)
class Ablation:
    """A lever of the chosen plan: seconds of the plan without it ÷ seconds of the plan."""

    lever: str
    option: Option
    interval: Interval
    kept: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "lever": self.lever,
            "option": self.option,
            "speedup": self.interval.ratio,
            "interval": [self.interval.low, self.interval.high],
            "kept": self.kept,
        }


@dataclass(frozen=True)
class Tuning:
    """The chosen ``plan`` with its evidence.

    speedup: seconds as written ÷ seconds tuned, of whole steps with their data; None where nothing was kept. noise: how
    far two processes of the same plan were apart, as a factor. first_seconds: what starting with the plan costs more.
    seconds: what the tuning took. complete: every lever was tried within the budget.
    """

    job: str
    machine: str
    date: str
    plan: Plan
    baseline_samples_per_second: float
    tuned_samples_per_second: float
    speedup: Interval | None
    tried: tuple[Tried, ...]
    ablation: tuple[Ablation, ...]
    parts: Mapping[str, float]
    noise: float
    first_seconds: float
    seconds: float
    budget: float
    complete: bool
    notes: tuple[str, ...] = ()
    from_cache: str = field(default="", compare=False)

    def as_dict(self) -> dict[str, Any]:
        gain = self.speedup
        return {
            "job": self.job,
            "machine": self.machine,
            "date": self.date,
            "plan": dict(self.plan.options),
            "baseline_samples_per_second": self.baseline_samples_per_second,
            "tuned_samples_per_second": self.tuned_samples_per_second,
            "speedup": 1.0 if gain is None else gain.ratio,
            "interval": [1.0, 1.0] if gain is None else [gain.low, gain.high],
            "pairs": 0 if gain is None else gain.n,
            "levers": [one.as_dict() for one in self.tried],
            "ablation": [one.as_dict() for one in self.ablation],
            "parts": dict(self.parts),
            "noise": self.noise,
            "first_seconds": self.first_seconds,
            "seconds": self.seconds,
            "budget": self.budget,
            "complete": self.complete,
            "notes": list(self.notes),
            "from_cache": self.from_cache,
        }

    def to_state(self) -> dict[str, Any]:
        """For the store: everything, by field."""
        return {**asdict(replace(self, plan=Plan())), "plan": dict(self.plan.options)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Tuning":
        """The inverse of ``to_state``; raises KeyError, TypeError or ValueError on anything else."""
        values = dict(state)
        values["plan"] = Plan.from_mapping(values["plan"], "stored tuning")
        values["speedup"] = None if values["speedup"] is None else Interval(**values["speedup"])
        values["tried"] = tuple(
            Tried(**{**one, "interval": None if one["interval"] is None else Interval(**one["interval"])})
            for one in values["tried"]
        )
        values["ablation"] = tuple(
            Ablation(**{**one, "interval": Interval(**one["interval"])}) for one in values["ablation"]
        )
        values["notes"] = tuple(values["notes"])
        return cls(**values)

    def to_toml(self) -> str:
        """The plan as a file, with its evidence in comments."""
        lines = [f"# {line}" for line in self.headline().splitlines()]
        lines += [f"# {self.machine}; {self.date}", "#"]
        without = {one.lever: one.interval for one in self.ablation if one.kept}
        for one in self.tried:
            if one.kept:
                worth = (
                    f"; the plan without it ÷ the plan: {_factor(without[one.lever])}" if one.lever in without else ""
                )
                lines.append(f"# {one.name}: {one.why}{worth}; {one.proof}")
        for one in self.tried:
            if not one.kept and one.interval is not None:
                lines.append(f"# refused: {one.name}: {_factor(one.interval)}: {one.why}")
        return "\n".join(lines) + "\n" + self.plan.to_toml()

    def headline(self) -> str:
        """What came of it, in a line or two."""
        before = f"as written {_rate(self.baseline_samples_per_second)} samples/s"
        if self.speedup is None:
            some = any(one.interval is not None for one in self.tried)
            why = "nothing that was tried is faster, still right and paid back" if some else "nothing was tried"
            return f"{self.job}: {before}; {why}"
        after = f"tuned {_rate(self.tuned_samples_per_second)}: {_factor(self.speedup)}"
        return f"{self.job}: {before}, {after}\nplan: {self.plan}"

    def __str__(self) -> str:
        table = Table(box=SIMPLE_HEAD, title_justify="left")
        for column in ("lever", "speed-up", "proof", ""):
            table.add_column(column, overflow="fold")
        timed = [one for one in self.tried if one.interval is not None]
        for one in timed:
            table.add_row(
                one.name,
                _factor(one.interval) if one.interval else "",
                one.proof,
                f"{'kept' if one.kept else 'refused'}: {one.why}",
            )
        parts = [_text(table).rstrip()] if timed else []
        untimed = [one for one in self.tried if one.interval is None]
        here = [one for one in untimed if one.why.startswith(("not tried", "failed", "not decided"))]
        if here:
            parts.append("not timed\n" + "\n".join(f"  {line}" for line in _grouped(here)))
        if len(here) < len(untimed):
            parts.append(f"{len(untimed) - len(here)} options do not apply to this job here; --json says why of each")
        if self.ablation:
            lines = [f"  {one.lever}={one.option}: {_factor(one.interval)}" for one in self.ablation]
            parts.append("what each lever of the plan is worth (the plan without it ÷ the plan)\n" + "\n".join(lines))
        parts.append("\n".join([self.headline(), *self.notes]))
        if self.from_cache:
            parts.append(self.from_cache)
        return "\n\n".join(parts)


def _grouped(refused: Sequence[Tried]) -> list[str]:
    """A line for each sentence, whatever the numbers in it."""
    groups: dict[str, dict[str, list[Tried]]] = {}
    for one in refused:
        groups.setdefault(re.sub(r"\d+", "#", one.why), {}).setdefault(one.lever, []).append(one)
    lines = []
    for levers in groups.values():
        names = [f"{lever}={', '.join(str(one.option) for one in group)}" for lever, group in levers.items()]
        lines.append(f"{'; '.join(names)}: {next(iter(levers.values()))[0].why}")
    return lines


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _factor(interval: Interval) -> str:
    return f"{interval.ratio:.3g}× [{interval.low:.3g}, {interval.high:.3g}]"


def _text(table: Table) -> str:
    output = io.StringIO()
    Console(file=output, width=120, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
