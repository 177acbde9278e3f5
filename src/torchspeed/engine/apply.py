"""A plan applied to a live run, stage by stage; whoever made the run, a job or a loop of the user's own."""

from torchspeed.engine.resolve import resolve
from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.machine import Machine
from torchspeed.plan import Plan
from torchspeed.run import Run


def apply_plan(run: Run, plan: Plan, facts: Facts, machine: Machine) -> None:
    """Change ``run`` as ``plan`` says; ``run.applied`` and ``run.skipped`` tell what became of each lever.

    Raises PlanError for unknown levers or options, before anything is changed.
    """
    for lever, option in resolve(plan, facts, machine):
        try:
            lever.check(facts, machine, option)
            lever.apply(run, option)
            run.applied.append(f"{lever.name}={option}")
        except NotApplicable as reason:
            run.skipped.append(f"{lever.name}={option} is skipped: {reason}")
