"""Optimizers by name: PyTorch's own class wherever there is one.

A name fixes what makes the method that method ("gd" has no momentum, "nesterov" has Nesterov's) and leaves
every other option of the class open, with the class's own defaults and spelling. Momentum, where the name
promises it, is 0.9 unless said otherwise; PyTorch's default of 0 would make "sgd" and "gd" the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar

import torch
from torch.optim.optimizer import Optimizer, ParamsT

from torchspeed.errors import JobError
from torchspeed.optim.lion import Lion
from torchspeed.optim.muon import Muon
from torchspeed.optim.options import Options, check, frozen, known_name
from torchspeed.optim.schedule_free import schedule_free_class


@dataclass(frozen=True)
class _Entry:
    """What stands behind a name; ``load`` is a function so that optional packages are imported late."""

    load: Callable[[], type[Optimizer]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


_NO_MOMENTUM = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}

_REGISTRY: dict[str, _Entry] = {
    "gd": _Entry(lambda: torch.optim.SGD, fixed=_NO_MOMENTUM),
    "sgd": _Entry(lambda: torch.optim.SGD, {"momentum": 0.9}, fixed={"nesterov": False}),
    "nesterov": _Entry(lambda: torch.optim.SGD, {"momentum": 0.9}, fixed={"nesterov": True, "dampening": 0.0}),
    "adagrad": _Entry(lambda: torch.optim.Adagrad),
    "rmsprop": _Entry(lambda: torch.optim.RMSprop),
    "adam": _Entry(lambda: torch.optim.Adam),
    "adamw": _Entry(lambda: torch.optim.AdamW),
    "nadam": _Entry(lambda: torch.optim.NAdam),
    "lion": _Entry(lambda: Lion),
    "muon": _Entry(lambda: Muon),
    "schedulefree": _Entry(schedule_free_class),
}

OPTIMIZERS: tuple[str, ...] = tuple(_REGISTRY)


def optimizer(name: str, *, learning_rate: float | None = None, **options: Any) -> "OptimizerFactory":
    """A factory of the optimizer called ``name`` (one of ``OPTIMIZERS``); call it with the parameters.

    ``options`` are those of the class behind the name, for instance ``betas`` and ``weight_decay`` of
    ``torch.optim.AdamW``. Raises ``JobError`` for an unknown name or option, listing the valid ones, and
    ``MissingPackage`` for "schedulefree" without its package.
    """
    if learning_rate is None:
        hint = " (lr= is not its name here)" if "lr" in options else ""
        raise JobError(f"optimizer {name!r}: learning_rate is missing; give learning_rate={hint}")
    return OptimizerFactory(name, learning_rate, frozen(options))


@dataclass(frozen=True)
class OptimizerFactory:
    """``factory(params) -> Optimizer``; ``params`` is what ``torch.optim`` takes: tensors, (name, tensor)
    pairs, or groups. A plain value: it compares, hashes, prints and pickles."""

    takes_names: ClassVar[bool] = True  # a job hands over (name, tensor) pairs

    name: str
    learning_rate: float
    options: Options = ()

    def __post_init__(self) -> None:
        known_name("optimizer", self.name, OPTIMIZERS)
        if not isinstance(self.learning_rate, Real) or not self.learning_rate >= 0:
            raise JobError(
                f"optimizer {self.name!r}: learning_rate is {self.learning_rate!r}; give a number, at least 0"
            )
        entry = _REGISTRY[self.name]
        hidden = {"params", "lr", *entry.fixed}
        what = f"optimizer {self.name!r}"
        check(what, entry.load(), dict(self.options), hidden=hidden, also=["learning_rate"])

    def __call__(self, params: ParamsT) -> Optimizer:
        """Raises ``JobError`` when the class refuses a value (a negative decay, no parameters at all)."""
        entry = _REGISTRY[self.name]
        options = {**entry.defaults, **dict(self.options), **entry.fixed}
        make: Callable[..., Optimizer] = entry.load()
        try:
            return make(params, lr=self.learning_rate, **options)
        except (TypeError, ValueError) as error:
            raise JobError(f"optimizer {self.name!r}: {error}") from error
