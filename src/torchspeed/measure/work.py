"""The work of one training step: its floating-point operations and the least bytes it moves, counted, not estimated.

One real step is taken while every operation that PyTorch dispatches is looked at; so any model is counted, and nobody
has to say how large it is. With ``Limits`` this gives the least time of a step on this machine: an operation takes at
least ``max(FLOPs / matrix rate, bytes / bandwidth)``, and operations follow each other. To keep that sum exact for any
limits, work is held as a tally of distinct operations, of which even a long recurrent model has few; FLOPs and bytes
summed over several operations first would let the compute-bound ones hide the memory traffic of the others.
"""

import sys
import warnings
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchspeed.batch import map_tensors
from torchspeed.engine.step import BACKWARD, FORWARD, OPTIMIZER, to_device
from torchspeed.errors import NotApplicable
from torchspeed.job import Batch
from torchspeed.measure.counter import OperationCounter, Piece
from torchspeed.measure.limits import Limits
from torchspeed.measure.traffic import stored_bytes
from torchspeed.measure.untouched import untouched
from torchspeed.parallel.micro_batches import split
from torchspeed.run import Run


@dataclass(frozen=True)
class Work:
    """Work of a part of a step. ``pieces``: (format, FLOPs, bytes, how many such operations)."""

    pieces: tuple[tuple[str, float, float, int], ...] = ()

    @classmethod
    def of(cls, tallies: Iterable[Tally[Piece]]) -> "Work":
        whole: Tally[Piece] = Tally()
        for tally in tallies:
            whole.update(tally)
        return cls(tuple((*piece, count) for piece, count in whole.items() if count > 0))

    @property
    def flops(self) -> tuple[tuple[str, float], ...]:
        """FLOPs by the format that they are done in."""
        by_format: Tally[str] = Tally()
        for name, flops, _, count in self.pieces:
            if flops:
                by_format[name] += count * flops  # type: ignore[assignment]
        return tuple(by_format.items())

    @property
    def total_flops(self) -> float:
        return sum(flops for _, flops in self.flops)

    @property
    def bytes(self) -> float:
        """Least bytes to and from memory."""
        return sum(moved * count for _, _, moved, count in self.pieces)

    @property
    def operations(self) -> int:
        """Operations that start a kernel; views and allocations do not."""
        return sum(count for *_, count in self.pieces)

    def limit_seconds(self, limits: Limits) -> float:
        """The least time on a machine with these limits, one operation after the other, issuing them for nothing."""
        return sum(
            count * max(flops / limits.rate(name), moved / limits.bandwidth(moved))
            for name, flops, moved, count in self.pieces
        )

    def compute_seconds(self, limits: Limits) -> float:
        """Of the multiplications alone."""
        return sum(flops / limits.rate(name) for name, flops in self.flops)

    def memory_seconds(self, limits: Limits) -> float:
        """Of the bytes alone."""
        return sum(count * moved / limits.bandwidth(moved) for _, _, moved, count in self.pieces)

    def __add__(self, other: "Work") -> "Work":
        return Work.of(Tally({piece[:3]: piece[3]}) for piece in (*self.pieces, *other.pieces))


@dataclass(frozen=True)
class ModuleWork:
    """What a module does by itself, without the modules in it. ``name``: as in ``named_modules``; "" is the model."""

    name: str
    kind: str
    forward: Work
    backward: Work


@dataclass(frozen=True)
class StepWork:
    """``modules``: those that dispatch operations themselves, in the order of their first call.

    Their sum is ``forward + backward`` but for what happens outside of the model: the loss, and adding up gradients.
    """

    forward: Work
    backward: Work
    optimizer: Work
    modules: tuple[ModuleWork, ...]

    @property
    def total(self) -> Work:
        return self.forward + self.backward + self.optimizer


def count_step(run: Run, batch: Batch) -> StepWork:
    """Work of one step of ``run`` on ``batch``; both are left exactly as they were. Compiled code runs uncompiled.

    The loss is not scaled and the scaler not asked, so what scaling adds (a look at each gradient) is not counted.
    Raises NotApplicable where the step cannot be seen.
    """
    if not run.holds_loop:
        raise NotApplicable("the work of a step cannot be counted: the loop is not torchspeed's, so it cannot take one")
    with untouched(run), _uncompiled(), OperationCounter(run.model) as counter:
        batch = to_device(map_tensors(batch, _copy), run.device)
        for piece, weight in split(batch, run.micro_batches):
            with run.step_context():
                loss = run.compute_loss(run.model, piece)
            (loss * weight).backward()  # type: ignore[no-untyped-call]
        counter.updating = True
        _update(run.optimizer)  # the very first one also makes the optimizer's state
        counter.tallies.pop((OPTIMIZER, None), None)
        clipped = 0.0
        if run.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.clip_grad_norm)
            clipped = stored_bytes([parameter.grad for parameter in run.model.parameters()])
        _update(run.optimizer)
        moved = clipped + updated_bytes(run.optimizer)
    if not any(module is not None for part, module in counter.tallies if part == FORWARD):
        raise NotApplicable("the work of a step cannot be counted: the model's operations do not pass through PyTorch")
    update = counter.tallies.setdefault((OPTIMIZER, None), Tally())
    update[("", 0.0, moved)] += 1  # by one of its pointwise operations, say
    update[("", 0.0, 0.0)] -= 1
    return _step_work(counter)


def updated_bytes(optimizer: Optimizer) -> float:
    """Least bytes of an update: gradients read, parameters and the optimizer's state read and written, once each."""
    total = 0.0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                total += 3 * stored_bytes(parameter.grad._values())  # the rows that it names, and nothing of the state
                continue
            state = optimizer.state.get(parameter, {})
            total += stored_bytes(parameter.grad) + 2 * stored_bytes([parameter, state])
    return total


def _copy(tensor: Tensor) -> Tensor:
    """A first layer may work in place, and gradients may flow into a batch."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """What was compiled, a model or a function, runs as it is written; its hooks then fire without a warning."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled; a second spared
        yield
        return
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message="Using `torch.compile")
        yield


def _update(optimizer: Optimizer) -> None:
    """The update without the hooks around it: nobody is to see a step that does not count."""
    step: Any = type(optimizer).step
    if getattr(step, "hooked", False):
        step = step.__wrapped__
    step(optimizer)


def _step_work(counter: OperationCounter) -> StepWork:
    def work(part: str, *modules: str | None) -> Work:
        places = [(part, module) for module in modules] if modules else [p for p in counter.tallies if p[0] == part]
        return Work.of(counter.tallies[place] for place in places if place in counter.tallies)

    modules = (
        ModuleWork(name, kind, work(FORWARD, name), work(BACKWARD, name)) for name, kind in counter.kinds.items()
    )
    return StepWork(
        forward=work(FORWARD),
        backward=work(BACKWARD),
        optimizer=work(OPTIMIZER),
        modules=tuple(module for module in modules if module.forward.pieces or module.backward.pieces),
    )
