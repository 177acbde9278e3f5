"""The metric and the loss over the validation set: sums over samples divided by their number, never means of means."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchspeed.batch import batch_length
from torchspeed.data.fetch import generators_kept
from torchspeed.engine.step import to_device
from torchspeed.errors import JobError
from torchspeed.job import Batch, Job
from torchspeed.run import Run


@dataclass(frozen=True)
class Scores:
    """``metric`` is the job's metric, ``loss`` the mean loss; both over the ``samples`` of the validation set."""

    metric: float
    loss: float
    samples: int


def evaluate(
    run: Run,
    job: Job,
    stop: Callable[[], bool] = lambda: False,
    describe: Callable[[Batch, Exception], Exception] = lambda batch, error: error,
) -> Scores | None:
    """Scores of ``run.model`` on the validation set, in evaluation mode; None when ``stop`` became true.

    ``describe`` turns what a batch raised into the error to raise.

    The sums stay on the device; it is waited for once, at the end.
    """
    assert run.valid is not None
    totals = torch.zeros(4, dtype=torch.float64, device=None if run.device.type == "mps" else run.device)
    samples = 0
    with evaluating(run):
        model = run.model
        for wrap in run.evaluation_wrappers:
            model = wrap(model)
        for batch in run.valid.epoch(0):
            if stop():
                return None
            samples += batch_length(batch)
            try:
                totals += sums(run, job, model, to_device(batch, run.device)).to(totals)
            except Exception as error:
                raise describe(batch, error) from error
    metric, metric_count, loss, loss_count = totals.tolist()
    return Scores(metric / max(metric_count, 1), loss / max(loss_count, 1), samples)


@contextmanager
def evaluating(run: Run) -> Iterator[None]:
    """The model as it is evaluated; afterwards model, weights and generators are as they were, bit for bit.

    A schedule-free optimizer evaluates at averaged weights; its way there and back rounds, so weights are put back.
    """
    switch = getattr(run.optimizer, "eval", None), getattr(run.optimizer, "train", None)
    kept = [p.detach().clone() for p in run.model.parameters()] if switch[0] else []
    run.model.eval()
    if switch[0]:
        switch[0]()
    try:
        with generators_kept(), device_generator_kept(run.device), torch.no_grad():
            yield
    finally:
        run.model.train()
        if switch[1]:
            switch[1]()
        with torch.no_grad():
            for parameter, value in zip(run.model.parameters(), kept, strict=False):
                parameter.copy_(value)


def device_generator_kept(device: torch.device) -> AbstractContextManager[None]:
    """Whatever is drawn inside on a GPU, its generator continues as before; nothing for a CPU."""
    if device.type == "cpu":
        return nullcontext()
    return torch.random.fork_rng([device.index or 0], device_type=device.type)


def sums(run: Run, job: Job, model: nn.Module, batch: Any) -> Tensor:
    """[metric sum, metric count, loss sum, loss count] of ``model`` on one batch."""
    output = None
    with run.step_context():
        if job.loss is None:
            loss = run.compute_loss(model, batch)
            target = batch
        else:
            inputs, target = batch
            output = model(inputs)
            loss = job.loss(output, target)
    loss = _precise(loss)
    counted = _counted(job, target, batch, loss)
    summed = loss if getattr(job.loss, "reduction", "mean") == "sum" else loss * counted
    summed = torch.where(counted > 0, summed, 0.0)  # the mean over no target at all is NaN
    if job.metric == "loss":
        return torch.stack([summed, counted, summed, counted])
    if job.metric == "accuracy":
        values = correct(output, target, _ignored(job))
    else:
        assert callable(job.metric)
        values = job.metric(model, batch) if output is None else job.metric(output, target)
    if not isinstance(values, Tensor) or values.ndim == 0:
        raise JobError(f"the metric {job.metric_name!r} must return one value per sample; found {_shape(values)}")
    return torch.stack([_precise(values).sum(), torch.full_like(counted, values.numel()), summed, counted])


def _counted(job: Job, target: Any, batch: Any, loss: Tensor) -> Tensor:
    """How many terms the mean of the loss has: class targets that are not ignored, or else samples."""
    if isinstance(target, Tensor) and not target.is_floating_point():
        return _precise(_is_counted(target, _ignored(job)).sum())
    return torch.full_like(loss, batch_length(batch))


def _ignored(job: Job) -> int:
    return int(getattr(job.loss, "ignore_index", -100))


def _is_counted(target: Tensor, ignored: int) -> Tensor:
    return (target >= 0) & (target != ignored)


def _precise(value: Tensor) -> Tensor:
    return value.detach().cpu().double() if value.device.type == "mps" else value.detach().double()


def correct(output: Any, target: Any, ignored: int = -100) -> Tensor:
    """1.0 where the most likely class is the target, over all targets that are neither negative nor ``ignored``.

    output: [N, C] with target [N] or with one-hot or soft targets [N, C]; [B, T, C] or [B, C, T] with target [B, T];
    [N] or [N, 1], one logit each, with targets 0 and 1.
    """
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        raise JobError(f"accuracy needs tensors; found output {_shape(output)} and target {_shape(target)}")
    if output.ndim == target.ndim + 1 and output.shape[-1] == 1:
        output = output.squeeze(-1)
    if output.shape == target.shape and output.ndim > 1 and output.shape[-1] > 1:
        if not torch.allclose(target.double().sum(-1), torch.ones((), dtype=torch.float64, device=target.device)):
            raise JobError(
                f"accuracy: targets {_shape(target)} are several labels per sample; give metric=(output, target) -> "
                "one value per sample that says how they count"
            )
        return torch.eq(output.argmax(-1), target.argmax(-1))
    if output.shape == target.shape:
        return torch.eq(output > 0, target > 0.5).flatten()
    if output.shape[:-1] == target.shape:
        right = torch.eq(output.argmax(-1), target)
    elif output.ndim == target.ndim + 1 and output[:, 0].shape == target.shape:
        right = torch.eq(output.argmax(1), target)
    else:
        raise JobError(f"accuracy: output {_shape(output)} does not go with target {_shape(target)}")
    return right[_is_counted(target, ignored)]


def _shape(value: Any) -> str:
    return "x".join(map(str, value.shape)) or "scalar" if isinstance(value, Tensor) else f"a {type(value).__name__}"
