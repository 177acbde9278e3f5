"""Layers that ask for a gradient and never get one: not called, or cut off from the loss.

An unused layer is memory, optimizer state and initialization for nothing, and DistributedDataParallel stops at it
("expected to have finished reduction"). One whose output passes a ``detach()``, a ``.data``, a ``no_grad`` block or an
argmax on its way to the loss is worse: it looks trained and keeps its random weights. Parameters frozen with
``requires_grad_(False)`` are frozen on purpose. A layer that some batches use and others do not is given three.
Source: https://docs.pytorch.org/docs/stable/notes/autograd.html ("locally disabling gradient computation").
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject, by_place, named
from torchspeed.measure.advice.trace import trace

_BATCHES = 3


def no_gradient(subject: Subject) -> Iterator[Advice]:
    missing, ran = subject.trace.without_gradient, set(subject.trace.ran)
    for number in range(1, min(_BATCHES, len(subject.run.loader))):
        if missing:
            another = trace(subject.run, number)
            missing, ran = missing & another.without_gradient, ran | another.ran
    sizes = {name: p.numel() for name, p in subject.run.model.named_parameters() if name in missing}
    owners: dict[str, int] = {}
    for name, size in sizes.items():
        owner = _outermost(subject, name, missing)
        owners[owner] = owners.get(owner, 0) + size
    for place, names in by_place((subject.line_of(owner), owner) for owner in owners).items():
        used = any(name in ran for name in names)
        yield Advice(
            "no_gradient",
            place,
            f"{named(names)} {'runs, but its output does not reach the loss' if used else 'is never called'}",
            f"{sum(owners[name] for name in names):,} of {subject.parameters:,} parameters never change",
            "look for a detach(), .data, no_grad or argmax behind it"
            if used
            else "call it in forward, take it out, or freeze it with requires_grad_(False)",
        )


def _outermost(subject: Subject, parameter: str, missing: frozenset[str]) -> str:
    """The largest module around it that has no other parameters than such; the parameter itself if there is none."""
    found, parts = parameter, parameter.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        owner = ".".join(parts[:depth])
        trained = (f"{owner}.{name}" for name, p in subject.module(owner).named_parameters() if p.requires_grad)
        if not missing.issuperset(trained):
            break
        found = owner
    return found
