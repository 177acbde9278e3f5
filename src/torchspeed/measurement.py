"""``Measurement``: what a trial of a plan gave, with its spread and its provenance; never a bare number."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any

from torchspeed.fingerprint import fingerprint
from torchspeed.machine import Machine
from torchspeed.plan import Plan


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ``n`` values; units are those of the values."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        if not values:
            raise ValueError("no values")
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high, len(values))

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}] n={self.n}"


def ratio(candidate: list[float], reference: list[float]) -> Spread:
    """Spread of the paired ratios candidate ÷ reference; pairs come from interleaved blocks."""
    return Spread.of([a / b for a, b in zip(candidate, reference, strict=True)])


@dataclass(frozen=True)
class Provenance:
    """Where and when a figure was measured."""

    machine: Machine
    date: str

    @classmethod
    def here(cls, machine: Machine) -> "Provenance":
        return cls(machine, datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Measurement:
    """One trial of ``plan``: seconds per step with their spread, or the ``error`` that ended it.

    warmup_seconds: everything before the steps that count (compilation included).
    peak_memory: bytes, of the device; 0 where it cannot be read.
    """

    plan: Plan
    provenance: Provenance
    samples_per_step: int = 0
    step_seconds: Spread | None = None
    warmup_seconds: float = 0.0
    peak_memory: int = 0
    losses: tuple[float, ...] = ()
    error: str | None = None

    @property
    def fingerprint(self) -> str:
        """A digest of all of it."""
        return fingerprint(self.as_dict())

    @property
    def samples_per_second(self) -> float | None:
        return None if self.step_seconds is None else self.samples_per_step / self.step_seconds.median

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "plan": dict(self.plan.options),
            "provenance": {"machine": self.provenance.machine.as_dict(), "date": self.provenance.date},
            "samples_per_second": self.samples_per_second,
        }
