"""``Run``: the live model, optimizer, loader and step; the only thing that changes, and all that a lever knows.

Two makers fill it: ``torchspeed.engine.build`` from a job, and, for somebody else's script, ``attach``.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchspeed.job import Batch, Every

ContextFactory = Callable[[], AbstractContextManager[Any]]
Step = Callable[[Batch], Tensor]
Mark = Callable[[str], None]


class Loader(Protocol):
    """What a run reads batches from.

    workers: threads or processes that load ahead; 0 loads in place. prefetch: batches that each of them is ahead.
    samples: in an epoch's data.
    ``epoch`` gives the batches of an epoch from ``start`` on; ``batch`` one of them, loaded in this process;
    ``sample_ids`` the samples in it.
    """

    workers: int
    prefetch: int
    batch_size: int
    samples: int

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...

    def batch(self, epoch: int, number: int) -> Batch: ...

    def sample_ids(self, epoch: int, number: int) -> list[int]: ...


@dataclass
class Run:
    """A training that can be stepped.

    compute_loss: ``(model, batch) -> scalar`` (mean over the batch).
    step_context: what forward and loss run in (autocast, for instance); levers add to it.
    step_wrappers: each takes the whole step, ``batch -> loss``, and gives another in its place; levers add to them.
    evaluation_wrappers: each takes the model, in evaluation mode, and gives what is evaluated in its place.
    micro_batches: pieces that a batch is cut into; their gradients add up to the gradient of the batch.
    holds_loop: False inside a loop of the user's own, where ``compute_loss``, ``micro_batches``, ``scaler``,
        ``step_contexts`` and the wrappers reach nothing but the forward pass of the model.
    applied, skipped: a sentence for each lever of the plan.
    """

    device: torch.device
    model: nn.Module
    optimizer: Optimizer
    loader: Loader
    compute_loss: Callable[[nn.Module, Batch], Tensor]
    valid: Loader | None = None
    schedule: Any | None = None
    schedule_every: Every = "step"
    clip_grad_norm: float | None = None
    micro_batches: int = 1
    scaler: torch.amp.GradScaler | None = None
    step_contexts: list[ContextFactory] = field(default_factory=list)
    step_wrappers: list[Callable[[Step], Step]] = field(default_factory=list)
    evaluation_wrappers: list[Callable[[nn.Module], nn.Module]] = field(default_factory=list)
    holds_loop: bool = True
    applied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def step_context(self) -> AbstractContextManager[Any]:
        if len(self.step_contexts) == 1:
            return self.step_contexts[0]()
        stack = ExitStack()
        for make in self.step_contexts:
            stack.enter_context(make())
        return stack
