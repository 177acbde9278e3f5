"""``prepare``: a plan inside a training loop of one's own.

    model, optimizer, loader = torchspeed.prepare(model, optimizer, loader, plan="plan.toml")

A loop is code, and code cannot be changed from a call in front of it. What a plan does to the model, to the optimizer,
to the loader or to the process is done here. What it does to the step (casting, scaling, cutting a batch into pieces)
would have to stand in the loop itself, so it is skipped, with the sentence why: a lever that does nothing must not
look as if it did. Variables of the environment come too late: a process has them when it starts, or not at all.

The loader keeps its order, draw for draw: see ``torchspeed.attach.same_order``.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from torchspeed.attach.same_order import SameOrderLoader
from torchspeed.data.dataloader import DataLoader as CompiledDataLoader
from torchspeed.engine.apply import apply_plan
from torchspeed.engine.resolve import resolve
from torchspeed.errors import JobError, NotApplicable, PlanError
from torchspeed.facts import observe
from torchspeed.job import Batch
from torchspeed.lever import Stage
from torchspeed.machine import Machine
from torchspeed.plan import Plan
from torchspeed.run import Run

_NO_BATCH = "it asks for a batch, and the loader is one that cannot be asked"
_IN_THE_LOOP = {
    "compute_loss": "the loss",
    "micro_batches": "the pieces of a batch",
    "scaler": "a loss scaler",
    "step_contexts": "a context around forward and loss",
    "step_wrappers": "the whole step",
    "evaluation_wrappers": "the model in evaluations",
}


@dataclass(frozen=True)
class Prepared:
    """Unpacks into (model, optimizer, loader). ``applied``, ``skipped``: a sentence for each lever of the plan."""

    model: nn.Module
    optimizer: Optimizer
    loader: Any
    applied: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.optimizer, self.loader))

    def __str__(self) -> str:
        done = ", ".join(self.applied) or "nothing"
        return f"applied: {done}" + "".join(f"; {reason}" for reason in self.skipped)


def prepare(
    model: nn.Module,
    optimizer: Optimizer,
    loader: Any = None,
    plan: Plan | str | Path | None = None,
    *,
    quiet: bool = False,
) -> Prepared:
    """Apply ``plan`` to what a loop trains with, before its first step; prints one line of what was done.

    model: on the device where it will be trained; it and ``optimizer`` may be changed in place or replaced: go on with
        those that are returned.
    loader: PyTorch's ``DataLoader``; where the plan changes how data are loaded, another one with the same samples in
        the same order comes back. Any other iterable, a loader that does what the other one would not (an ``__iter__``
        of its own, ``worker_init_fn``, ``multiprocessing_context``, ``timeout``), or None, stays as it is.
    plan: a Plan, the path of one, or None, which changes nothing.

    Raises JobError for what cannot be trained with, PlanError for a plan that cannot be read or names what is unknown.
    """
    device = _checked(model, optimizer, loader)
    plan = _read(plan)
    machine = Machine.detect(device.type)
    ours, why_not = _loader_for(loader)
    run = Run(
        device=device,
        model=model,
        optimizer=optimizer,
        loader=ours.ordered if ours is not None else _Elsewhere(loader),
        compute_loss=_in_their_loop,
        holds_loop=False,
    )
    facts = observe(run, run.loader.batch_size)
    data_changed = False
    for lever, option in resolve(plan, facts, machine):
        if lever.stage is Stage.DATA and ours is None:
            run.skipped.append(f"{lever.name}={option} is skipped: {why_not}")
            continue
        before = _loop_parts(run)
        applied = len(run.applied)
        apply_plan(run, Plan.of(**{lever.name: option}), facts, machine)
        without_effect = _changed(run, before)
        if without_effect and len(run.applied) > applied:
            del run.applied[applied:]
            run.skipped.append(f"{lever.name}={option} is skipped: it acts on {without_effect}, and the loop is yours")
        data_changed |= lever.stage is Stage.DATA and len(run.applied) > applied
    prepared = Prepared(
        run.model, run.optimizer, ours if data_changed else loader, tuple(run.applied), tuple(run.skipped)
    )
    if plan.options and not quiet:
        print(f"torchspeed: {prepared}")
    return prepared


def _checked(model: Any, optimizer: Any, loader: Any) -> torch.device:
    """The device of the model. Raises JobError for what cannot be trained with."""
    if not isinstance(model, nn.Module):
        raise JobError(f"prepare: model is a {type(model).__name__}; give the nn.Module that the loop calls")
    if not isinstance(optimizer, Optimizer):
        raise JobError(f"prepare: optimizer is a {type(optimizer).__name__}; give the torch.optim.Optimizer")
    if loader is not None and not hasattr(loader, "__iter__"):
        raise JobError(f"prepare: loader is a {type(loader).__name__}, which cannot be iterated over; or leave it out")
    parameters = list(model.parameters())
    if not parameters:
        raise JobError("prepare: the model has no parameters to train")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in parameters):
        raise JobError(
            f"prepare: the optimizer holds {len(held)} parameters, none of them the model's; "
            "make it from model.parameters() after the model is made and moved"
        )
    return parameters[0].device


def _read(plan: Any) -> Plan:
    if plan is None:
        return Plan()
    if isinstance(plan, (str, Path)):
        return Plan.read(plan)
    if not isinstance(plan, Plan):
        raise PlanError(f"prepare: plan is a {type(plan).__name__}; give a Plan, the path of one, or None")
    return plan


def _loader_for(loader: Any) -> tuple[SameOrderLoader | None, str]:
    """What levers of the data can act on, or why they cannot."""
    if loader is None:
        return None, "no loader was given"
    if isinstance(loader, CompiledDataLoader):
        return None, "a torchspeed.DataLoader is told by its own arguments (num_workers=, placement=, decode=)"
    if not isinstance(loader, DataLoader):
        return None, f"a {type(loader).__name__} makes its batches in its own way"
    try:
        return SameOrderLoader(loader), ""
    except NotApplicable as reason:
        return None, str(reason)


def _loop_parts(run: Run) -> dict[str, Any]:
    parts = {name: getattr(run, name) for name in _IN_THE_LOOP}
    return {name: list(part) if isinstance(part, list) else part for name, part in parts.items()}


def _changed(run: Run, before: dict[str, Any]) -> str:
    """Which parts of the loop a lever has put something into, where nothing reads it."""
    return " and ".join(_IN_THE_LOOP[name] for name, part in _loop_parts(run).items() if part != before[name])


def _in_their_loop(model: nn.Module, batch: Batch) -> Tensor:
    raise NotApplicable("it asks for a loss, which is computed in a loop of your own")


@final
class _Elsewhere:
    """In the place of a loader that levers cannot act on: how long it is, and no batch."""

    workers = 0
    prefetch = 0

    def __init__(self, loader: Any) -> None:
        self.batch_size = getattr(loader, "batch_size", None) or 0
        self._batches = 0
        with suppress(TypeError):  # an iterable need not know
            self._batches = len(loader)
        self.samples = self._batches * self.batch_size

    def __len__(self) -> int:
        return self._batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        raise NotApplicable(_NO_BATCH)

    def batch(self, epoch: int, number: int) -> Batch:
        raise NotApplicable(_NO_BATCH)

    def sample_ids(self, epoch: int, number: int) -> list[int]:
        raise NotApplicable(_NO_BATCH)
