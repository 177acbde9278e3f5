"""``explain(job)``: what is done with the data, where, and why.

So far it answers for the data pipeline: the plan that the compiler has for it, in use or not.
"""

from dataclasses import dataclass

import torch

from torchspeed.data.pipeline.compile import compiled_for
from torchspeed.data.pipeline.compiled import Compiled
from torchspeed.data.pipeline.table import render
from torchspeed.engine.build import build
from torchspeed.errors import NotApplicable
from torchspeed.job import Job
from torchspeed.machine import Machine
from torchspeed.plan import Plan
from torchspeed.run import Loader


@dataclass(frozen=True)
class Explanation:
    """``machine`` and ``job``: a line each. ``pipelines``: for "train" and "valid", the plan as text."""

    machine: str
    job: str
    pipelines: dict[str, str]

    def __str__(self) -> str:
        parts = [f"{self.machine}\n{self.job}", *(f"{name}: {text}" for name, text in self.pipelines.items())]
        return "\n\n".join(parts)


def explain(job: Job, plan: Plan | None = None, *, device: str | None = None) -> Explanation:
    """What ``torchspeed explain`` prints. Raises as ``build`` does."""
    machine = Machine.detect(device)
    plan = plan or Plan()
    run = build(job, plan, machine)
    loaders = {"train": run.loader, "valid": run.valid}
    pipelines = {name: _pipeline(loader, run.device) for name, loader in loaders.items() if loader is not None}
    return Explanation(str(machine), f"job: {job.name}; plan: {plan}", pipelines)


def _pipeline(loader: Loader, device: torch.device) -> str:
    compiled, head = getattr(loader, "dataset", None), "compiled"
    if not isinstance(compiled, Compiled):
        head = "as written; with pipeline=compiled it would be"
        try:
            compiled = compiled_for(loader, device=device)
        except NotApplicable as reason:
            return f"as written: {reason}"
    return f"{head}\n{render(compiled.rows)}"
