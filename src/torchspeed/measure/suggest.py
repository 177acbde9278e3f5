"""What to try first: the levers that can move what a step waits for, and that apply here."""

import inspect
import re
from collections.abc import Set
from dataclasses import dataclass

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Phase
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine
from torchspeed.plan import Plan

_OFF = ("off", "0", "False", "none")


@dataclass(frozen=True)
class Suggestion:
    """A lever and the options of it that apply, the first of which is to be tried first; ``what`` it changes."""

    lever: str
    options: tuple[Option, ...]
    what: str

    def __str__(self) -> str:
        return f"--set {self.lever}={self.options[0]}"


def suggestions(bounds: Set[Bound], plan: Plan, facts: Facts, machine: Machine) -> tuple[Suggestion, ...]:
    """Levers that move one of ``bounds`` and are not in ``plan``; those first that gain most where they win.

    What makes another training of it (GOAL) comes last.
    """
    levers = [
        lever
        for lever in REGISTRY.values()
        if bounds & lever.moves and lever.phase is Phase.STEP and lever.name not in dict(plan.options)
    ]
    levers.sort(key=_precedence)
    found = ((lever, _applicable(lever, facts, machine)) for lever in levers)
    return tuple(Suggestion(lever.name, options, _first_sentence(lever)) for lever, options in found if options)


def _precedence(lever: Lever) -> tuple[bool, float, str]:
    return lever.guarantee is Guarantee.GOAL, -lever.usual_gain, lever.name


def _applicable(lever: Lever, facts: Facts, machine: Machine) -> tuple[Option, ...]:
    """Options that pass the lever's check; "off" is what most jobs are written with, and nothing to begin with."""
    passed = []
    for option in lever.options(facts, machine):
        if option == AS_WRITTEN or str(option) in _OFF:
            continue
        try:
            lever.check(facts, machine, option)
        except NotApplicable:
            continue
        passed.append(option)
    return tuple(passed)


def _first_sentence(lever: Lever) -> str:
    text = " ".join((inspect.getdoc(inspect.getmodule(type(lever))) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
