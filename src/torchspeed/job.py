"""``Job`` and ``Goal``: what to train. Nothing here says how fast; that is a ``Plan``."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from torchspeed.errors import JobError
from torchspeed.fingerprint import fingerprint

Batch = Any
Array = Tensor | np.ndarray[Any, Any]
Data = Dataset[Any] | Sequence[Array] | Array | Callable[[], Any]
Every = Literal["step", "epoch", "evaluation"]


@dataclass(frozen=True)
class Goal:
    """A metric and the value to reach: ``Goal("accuracy", at_least=0.94)`` or ``Goal("loss", at_most=1.88)``."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise JobError(f"Goal({self.metric!r}): give exactly one of at_least= and at_most=")

    @property
    def fingerprint(self) -> str:
        """A digest of metric and bound."""
        return fingerprint(dataclasses.astuple(self))

    @property
    def value(self) -> float:
        bound = self.at_least if self.at_least is not None else self.at_most
        assert bound is not None
        return bound

    def reached(self, value: float) -> bool:
        return value >= self.value if self.at_least is not None else value <= self.value

    def better(self, value: float, than: float | None) -> bool:
        if than is None:
            return True
        return value > than if self.at_least is not None else value < than

    def __str__(self) -> str:
        return f"{self.metric} {'≥' if self.at_least is not None else '≤'} {self.value:g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What to train.

    model: ``() -> nn.Module``; called once, on the CPU, after the generators are seeded.
    train, valid: a map-style dataset, a tuple of tensors or arrays of equal length, or a function that makes one.
    loss: ``(output, target) -> scalar``, for batches that are (input, target); or else
    step: ``(model, batch) -> scalar`` for any other batch.
    optimizer: ``params -> torch.optim.Optimizer``; gets the list of parameters, or (name, parameter) pairs if the
        function has an attribute ``takes_names = True``, as those of ``torchspeed.optim`` have.
    schedule: ``optimizer -> lr_scheduler``, stepped at every ``schedule_every``: "step", "epoch" or "evaluation".
        ``ReduceLROnPlateau`` gets the metric of the evaluation at that step and moves only then.
    metric: "accuracy", "loss", or a function that gives one value per sample, ``(output, target) -> [B]`` (with
        ``step``: ``(model, batch) -> [B]``); the mean over the validation set is reported.
    batch_size: samples per optimizer step.  epochs: passes over ``train``, fractions allowed.
    clip_grad_norm: the largest gradient norm, or None.  evaluate_every: steps; None is once per epoch.
    collate: list of samples -> batch, as in ``DataLoader``.

    Equality and ``fingerprint`` go by meaning (code and data), not by identity.
    """

    model: Callable[[], nn.Module]
    train: Data
    optimizer: Callable[[Iterable[Any]], Optimizer]
    valid: Data | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    step: Callable[[nn.Module, Batch], Tensor] | None = None
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    schedule_every: Every = "step"
    metric: str | Callable[[Any, Any], Tensor] = "loss"
    goal: Goal | None = None
    batch_size: int = 64
    epochs: float = 1
    seed: int = 0
    clip_grad_norm: float | None = None
    evaluate_every: int | None = None
    stop_at_goal: bool = False
    shuffle: bool = True
    drop_last: bool = False
    collate: Callable[[list[Any]], Batch] | None = None
    name: str = "job"

    def __post_init__(self) -> None:
        def need(condition: bool, problem: str) -> None:
            if not condition:
                raise JobError(f"Job {self.name!r}: {problem}")

        need(callable(self.model), f"model must be a function that makes an nn.Module; found {_kind(self.model)}")
        need(not isinstance(self.model, nn.Module), "model is a module; give the function or class that makes it")
        need(callable(self.optimizer), f"optimizer must be a function of params; found {_kind(self.optimizer)}")
        need(
            (self.loss is None) != (self.step is None),
            "give exactly one of loss=(output, target) -> scalar and step=(model, batch) -> scalar",
        )
        for field in ("loss", "step", "schedule", "collate"):
            value = getattr(self, field)
            need(value is None or callable(value), f"{field} must be a function; found {_kind(value)}")
        need(
            callable(self.metric) or self.metric in ("accuracy", "loss"),
            f'metric must be "accuracy", "loss" or a function; found {self.metric!r}',
        )
        need(self.step is None or self.metric != "accuracy", "accuracy needs loss=, not step=; give a function")
        need(
            self.schedule_every in ("step", "epoch", "evaluation"),
            f'schedule_every must be "step", "epoch" or "evaluation"; found {self.schedule_every!r}',
        )
        need(_is_int(self.batch_size) and self.batch_size > 0, f"batch_size must be ≥ 1; found {self.batch_size!r}")
        need(
            isinstance(self.epochs, Real) and 0 < self.epochs < float("inf"),
            f"epochs must be > 0; found {self.epochs!r}",
        )
        need(
            _is_int(self.seed) and 0 <= self.seed < 1 << 63,
            f"seed must be an integer from 0 to 2**63 - 1; found {self.seed!r}",
        )
        need(
            self.evaluate_every is None or (_is_int(self.evaluate_every) and self.evaluate_every > 0),
            f"evaluate_every must be ≥ 1 steps; found {self.evaluate_every!r}",
        )
        need(
            self.clip_grad_norm is None or (isinstance(self.clip_grad_norm, Real) and self.clip_grad_norm > 0),
            f"clip_grad_norm must be > 0; found {self.clip_grad_norm!r}",
        )
        need(self.goal is None or isinstance(self.goal, Goal), f"goal must be a Goal; found {_kind(self.goal)}")
        need(
            self.schedule is None or self.schedule_every != "evaluation" or self.valid is not None,
            'schedule_every="evaluation" needs valid=, which is missing',
        )
        need(self.goal is None or self.valid is not None, "a goal is measured on valid=, which is missing")
        if self.goal is not None:
            need(
                self.goal.metric in (self.metric_name, "loss"),
                f"the goal is on {self.goal.metric!r} but the metric is {self.metric_name!r}",
            )

    @property
    def metric_name(self) -> str:
        if isinstance(self.metric, str):
            return self.metric
        return getattr(self.metric, "__name__", type(self.metric).__name__)

    @functools.cached_property
    def field_fingerprints(self) -> dict[str, str]:
        """One digest per field, so that two jobs can be told apart by name: "batch_size and optimizer differ"."""
        return {field.name: fingerprint(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.field_fingerprints)

    def differs_from(self, fields: dict[str, str]) -> list[str]:
        """Names of the fields whose digests differ from ``fields``."""
        ours = self.field_fingerprints
        return [name for name in ours if ours[name] != fields.get(name)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
