"""What to try, in which order, and what need not be tried because it cannot matter here.

A lever that can move only the wait for data gains nothing in a training that never waits; the most that each part
could give is known from where the time of a step goes. Of the rest, those come first that gain most where they win.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine

MUCH, MUCH_FOR_DATA = 1.3, 2.0
WORTH_A_PLACE = 1.03
_WAITS = {Bound.DATA: "data", Bound.TRANSFER: "transfer"}


@dataclass(frozen=True)
class Candidate:
    """One option of one lever. ``why_not``: the sentence why it does not apply here, or ""."""

    lever: str
    option: Option
    why_not: str = ""


def candidates(levers: Iterable[Lever], facts: Facts, machine: Machine) -> list[Candidate]:
    """Every option of every lever that keeps the result, those that promise most first."""
    found = []
    for lever in sorted(levers, key=lambda lever: (-lever.usual_gain, lever.name)):
        if lever.guarantee is Guarantee.GOAL:
            continue
        for option in lever.options(facts, machine):
            if option != AS_WRITTEN:
                found.append(Candidate(lever.name, option, _why_not(lever, option, facts, machine)))
    return found


def leap(found: Iterable[Candidate], levers: Mapping[str, Lever], parts: Mapping[str, float]) -> list[Candidate]:
    """What to try together at first: the first option that applies of each lever that promises much here.

    Of levers of the data only what rewrites the whole pipeline, and only where data are waited for.
    """
    chosen: dict[str, Candidate] = {}
    for one in found:
        lever = levers[one.lever]
        promising = lever.usual_gain >= (MUCH_FOR_DATA if lever.stage is Stage.DATA else MUCH)
        fits = not any(name in lever.conflicts or lever.name in levers[name].conflicts for name in chosen)
        if not one.why_not and promising and fits and most_gain(lever, parts)[0] >= WORTH_A_PLACE:
            chosen.setdefault(one.lever, one)
    return list(chosen.values())


def most_gain(lever: Lever, parts: Mapping[str, float]) -> tuple[float, str]:
    """The most that ``lever`` could gain where the time of a step goes into ``parts`` (seconds), and the sentence."""
    step = sum(parts.values())
    waits = {part for bound, part in _WAITS.items() if bound in lever.moves}
    if lever.moves <= _WAITS.keys():
        limited = sorted(waits)
    elif lever.stage is Stage.OPTIMIZER:
        limited = ["optimizer"]
    else:
        return math.inf, ""
    if not any(part in parts for part in limited):
        return math.inf, ""  # the step is one program, whose parts cannot be told apart
    seconds = sum(parts.get(part, 0.0) for part in limited)
    most = step / max(step - seconds, 1e-9)
    return most, f"{' and '.join(limited)} take {seconds / step:.1%} of a step: at most {most:.3f}× can be gained"


def _why_not(lever: Lever, option: Option, facts: Facts, machine: Machine) -> str:
    try:
        lever.check(facts, machine, option)
    except NotApplicable as reason:
        return str(reason)
    return ""


def as_request(found: Iterable[Candidate]) -> list[dict[str, Any]]:
    """For the pipe between processes."""
    return [{"lever": one.lever, "option": one.option, "why_not": one.why_not} for one in found]
