"""``build(job, plan, machine) -> Run``: the job made live, and the plan's levers applied to it, stage by stage."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from torchspeed.data.loader import OrderedLoader
from torchspeed.data.source import as_dataset
from torchspeed.engine.apply import apply_plan
from torchspeed.engine.locate import raised_at
from torchspeed.engine.resolve import resolve
from torchspeed.errors import JobError, TorchspeedError
from torchspeed.facts import Facts, observe
from torchspeed.job import Job
from torchspeed.machine import Machine
from torchspeed.plan import Plan
from torchspeed.run import Run


def build(job: Job, plan: Plan, machine: Machine) -> Run:
    """A run ready for its first step; ``run.applied`` and ``run.skipped`` say what became of the plan.

    Raises JobError or DataError for what does not fit together, PlanError for unknown levers or options.
    """
    resolve(plan, Facts(), machine)  # a wrong name is said before data are read
    run = _as_written(job, torch.device(machine.device))
    facts = observe(run, job.batch_size, job.loss)
    apply_plan(run, plan, facts, machine)
    if job.schedule is not None:  # after the levers: one of them may replace the optimizer
        run.schedule = _call("schedule", job.schedule, run.optimizer)
    return run


def seed_everything(seed: int) -> None:
    """Set every generator that a model may draw from."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


def _as_written(job: Job, device: torch.device) -> Run:
    seed_everything(job.seed)  # what splits or draws when it is made does so the same way every time
    train = _data(job.train, "train")
    loader = OrderedLoader(
        train,
        job.batch_size,
        seed=job.seed,
        shuffle=job.shuffle,
        drop_last=job.drop_last,
        collate=job.collate,
    )
    valid = None
    if job.valid is not None:
        seed_everything(job.seed)
        valid = OrderedLoader(_data(job.valid, "valid"), job.batch_size, seed=job.seed, collate=job.collate)
    seed_everything(job.seed)
    model = _call("model", job.model)
    if not isinstance(model, nn.Module):
        raise JobError(f"job {job.name!r}: model() returned a {type(model).__name__}, not an nn.Module")
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        _settle_lazy_layers(model, job, loader)
    model = model.to(device)
    model.train()
    optimizer = _make_optimizer(job, model)
    getattr(optimizer, "train", lambda: None)()  # schedule-free optimizers have a mode of their own
    return Run(
        device=device,
        model=model,
        optimizer=optimizer,
        loader=loader,
        valid=valid,
        compute_loss=job.step or _Supervised(job),
        schedule_every=job.schedule_every,
        clip_grad_norm=job.clip_grad_norm,
    )


def _data(data: Any, what: str) -> Any:
    """A function that makes data is called here, where what it raises is said with its place."""
    if not isinstance(data, (Dataset, Tensor, np.ndarray)) and callable(data):
        data = _call(what, data)
    return as_dataset(data, what)


def _settle_lazy_layers(model: nn.Module, job: Job, loader: OrderedLoader) -> None:
    """One batch, so that ``nn.LazyLinear`` and its like take their sizes (and their weights) from the data."""
    with torch.no_grad():
        try:
            (job.step or _Supervised(job))(model, loader.batch(0, 0))
        except Exception as error:
            raise JobError(f"job {job.name!r}: lazy layers could not be sized by a first batch: {error}") from error


class _Supervised:
    """(model, (input, target)) -> loss."""

    def __init__(self, job: Job) -> None:
        assert job.loss is not None
        self.loss = job.loss

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, target = batch
        return self.loss(model(inputs), target)


def _make_optimizer(job: Job, model: nn.Module) -> Optimizer:
    named = list(model.named_parameters())
    if not named:
        raise JobError(f"job {job.name!r}: the model has no parameters to train")
    takes_names = getattr(job.optimizer, "takes_names", False)
    parameters = named if takes_names else [parameter for _, parameter in named]
    optimizer = _call("optimizer", job.optimizer, parameters)
    if not isinstance(optimizer, Optimizer):
        raise JobError(f"job {job.name!r}: optimizer() returned a {type(optimizer).__name__}, not an Optimizer")
    return optimizer


def _call(what: str, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except TorchspeedError:
        raise
    except Exception as error:
        raise JobError(f"{raised_at(error)}{what}() raised {type(error).__name__}: {error}") from error
