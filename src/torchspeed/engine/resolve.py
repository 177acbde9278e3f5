"""From the names in a plan to levers, in the order of their stages: the one place where the two meet."""

import contextlib

from torchspeed.errors import NotApplicable, PlanError
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Lever, Option, ProcessLever
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine
from torchspeed.plan import Plan

Choice = tuple[Lever, Option]


def resolve(plan: Plan, facts: Facts, machine: Machine) -> list[Choice]:
    """The levers of ``plan`` with their options, sorted by stage.

    Raises PlanError for an unknown lever, an unknown option (listing the valid ones) or a conflict.
    """
    choices = []
    for name, option in plan.options:
        if name not in REGISTRY:
            raise PlanError(f"plan: unknown lever {name!r}; valid: {', '.join(sorted(REGISTRY))}")
        lever = REGISTRY[name]
        valid = lever.options(facts, machine)
        if not any(option == other and type(option) is type(other) for other in valid):
            shown = ", ".join(str(other) for other in valid)
            raise PlanError(f"plan: {name} has no option {option!r}; valid: {shown}")
        if option != AS_WRITTEN:
            choices.append((lever, option))
    names = {lever.name for lever, _ in choices}
    for lever, _ in choices:
        for other in sorted(lever.conflicts & names):
            raise PlanError(f"plan: {lever.name} and {other} exclude each other; set one of them to {AS_WRITTEN!r}")
    return sorted(choices, key=lambda choice: (choice[0].stage, choice[0].name))


def process_environment(plan: Plan, machine: Machine) -> dict[str, str]:
    """Variables that the process must be started with for the levers that act before PyTorch is loaded."""
    variables: dict[str, str] = {}
    for lever, option in resolve(plan, Facts(), machine):
        if isinstance(lever, ProcessLever):
            with contextlib.suppress(NotApplicable):
                lever.check(Facts(), machine, option)
                variables.update(lever.environ(option))
    return variables
