"""``Subject``: all that an advice may ask of a training. ``Advice``: what it says.

An advice is a function ``Subject -> Iterator[Advice]`` in a file of its own. It times nothing and changes nothing. What
several of them need (the source files, one watched pass) is derived here, once, when it is first asked for.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from torchspeed.job import Job
from torchspeed.machine import Machine
from torchspeed.measure.advice.lines import job_line, layer_line
from torchspeed.measure.advice.source import Sources, is_users
from torchspeed.measure.advice.trace import Call, Trace, trace
from torchspeed.run import Run

_T = TypeVar("_T")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Advice:
    """``name``: the fault. ``place``: "job.py:31", or "" where no line can be named. ``found``: what is there.

    ``effect``: the size of it, with a number where one can be had. ``remedy``: what to do.
    """

    name: str
    place: str
    found: str
    effect: str
    remedy: str

    def __str__(self) -> str:
        sentences = ". ".join(text[:1].upper() + text[1:] for text in (self.effect, self.remedy) if text)
        return f"{self.place}: {self.found}. {sentences}" if self.place else f"{self.found}. {sentences}"


@dataclass(frozen=True, eq=False)
class Subject:
    """A job, and the run that was built of it as planned.

    shares: part of a step ("data", "transfer", "forward", "backward", "optimizer", "other") -> share of its time; {} if
        nothing was measured. flops: name of a module -> share of the step's FLOPs; {} if they were not counted.
    """

    job: Job
    run: Run
    machine: Machine
    shares: Mapping[str, float]
    flops: Mapping[str, float]

    @functools.cached_property
    def sources(self) -> Sources:
        """The user's files."""
        job = self.job
        roots: list[Any] = [job.model, job.step, job.loss, job.optimizer, job.schedule, job.train, job.valid]
        roots += [job.collate, job.metric]
        datasets = (getattr(loader, "dataset", None) for loader in (self.run.loader, self.run.valid))
        roots += [*(type(module) for module in self.run.model.modules()), *datasets]
        return Sources(root for root in roots if root is not None)

    @functools.cached_property
    def trace(self) -> Trace:
        """One watched forward and backward pass. Raises what the model raises."""
        return trace(self.run)

    @functools.cached_property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.run.model.parameters())

    def line_of(self, module: str) -> str:
        """Where the layer of that qualified name is made."""
        return layer_line(self.sources, self.run.model, self.job.model, module)

    def job_line(self, keyword: str) -> str:
        """Where the job says ``keyword=``."""
        return job_line(self.sources, self.job, keyword)

    def place_of(self, call: Call) -> str:
        """Where an operation is asked for: in a forward of the user's, or where the layer was made that does it."""
        if call.place and (not call.module or is_users(type(self.module(call.module)))):
            return call.place
        return self.line_of(call.module) or call.place

    def module(self, name: str) -> nn.Module:
        return self.run.model.get_submodule(name)


def by_place(found: Iterable[tuple[str, _T]]) -> dict[str, list[_T]]:
    """What was found at each line: a layer that a loop makes ten times is one thing to change."""
    places: dict[str, list[_T]] = {}
    for where, what in found:
        places.setdefault(where, []).append(what)
    return places


def named(names: Iterable[str]) -> str:
    """ "conv1, conv2, conv3 and 2 more"; "" without any."""
    names = list(dict.fromkeys(names))
    shown, more = names[:_MOST_NAMED], len(names) - _MOST_NAMED
    if more > 0:
        return f"{', '.join(shown)} and {more} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))
