"""The metric and the loss over the validation set: sums over samples divided by their number, never means of means."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchspeed.batch import batch_length
from torchspeed.engine.step import to_device
from torchspeed.errors import JobError
from torchspeed.job import Job
from torchspeed.run import Run


@dataclass(frozen=True)
class Scores:
    """``metric`` is the job's metric, ``loss`` the mean loss; both over the ``samples`` of the validation set."""

    metric: float
    loss: float
    samples: int


def evaluate(run: Run, job: Job, stop: Callable[[], bool] = lambda: False) -> Scores | None:
    """Scores of ``run.model`` on the validation set, in evaluation mode; None when ``stop`` became true.

    The sums stay on the device; it is waited for once, at the end.
    """
    assert run.valid is not None
    model, optimizer = run.model, run.optimizer
    switch = getattr(optimizer, "eval", None), getattr(optimizer, "train", None)
    model.eval()
    if switch[0]:
        switch[0]()  # schedule-free optimizers evaluate at their averaged weights
    totals = torch.zeros(4, dtype=torch.float64, device=None if run.device.type == "mps" else run.device)
    samples = 0
    try:
        with torch.no_grad():
            for batch in run.valid.epoch(0):
                if stop():
                    return None
                samples += batch_length(batch)
                totals += sums(run, job, to_device(batch, run.device)).to(totals)
    finally:
        model.train()
        if switch[1]:
            switch[1]()
    metric, metric_count, loss, loss_count = totals.tolist()
    return Scores(metric / max(metric_count, 1), loss / max(loss_count, 1), samples)


def sums(run: Run, job: Job, batch: Any) -> Tensor:
    """[metric sum, metric count, loss sum, loss count] of one batch."""
    output = None
    with run.step_context():
        if job.loss is None:
            loss = run.compute_loss(run.model, batch)
            target = batch
        else:
            inputs, target = batch
            output = run.model(inputs)
            loss = job.loss(output, target)
    loss = _precise(loss)
    counted = _counted(target, batch).to(loss.device)
    summed = loss if getattr(job.loss, "reduction", "mean") == "sum" else loss * counted
    if job.metric == "loss":
        return torch.stack([summed, counted, summed, counted])
    if job.metric == "accuracy":
        values = correct(output, target)
    else:
        assert callable(job.metric)
        values = job.metric(run.model, batch) if output is None else job.metric(output, target)
    if not isinstance(values, Tensor) or values.ndim == 0:
        raise JobError(f"the metric {job.metric_name!r} must return one value per sample; found {_shape(values)}")
    return torch.stack([_precise(values).sum(), torch.full_like(counted, values.numel()), summed, counted])


def _counted(target: Any, batch: Any) -> Tensor:
    """How many terms the mean of the loss has: targets that are not ignored (negative), or else samples."""
    if isinstance(target, Tensor) and not target.is_floating_point():
        return _precise((target >= 0).sum())
    return torch.tensor(float(batch_length(batch)), dtype=torch.float64)


def _precise(value: Tensor) -> Tensor:
    return value.detach().cpu().double() if value.device.type == "mps" else value.detach().double()


def correct(output: Any, target: Any) -> Tensor:
    """1.0 where the most likely class is the target, over all targets that are not negative.

    output: [N, C] with target [N]; [B, T, C] or [B, C, T] with target [B, T]; one logit each with a target of 0 and 1.
    """
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        raise JobError(f"accuracy needs tensors; found output {_shape(output)} and target {_shape(target)}")
    if output.shape == target.shape:
        right = (output > 0) == (target > 0.5)
        return right.flatten()
    if output.shape[:-1] == target.shape:
        right = output.argmax(-1) == target
    elif output.ndim == target.ndim + 1 and output[:, 0].shape == target.shape:
        right = output.argmax(1) == target
    else:
        raise JobError(f"accuracy: output {_shape(output)} does not go with target {_shape(target)}")
    return right[target >= 0]


def _shape(value: Any) -> str:
    return "x".join(map(str, value.shape)) or "scalar" if isinstance(value, Tensor) else f"a {type(value).__name__}"
