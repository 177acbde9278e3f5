"""One forward pass that leaves no trace: to see what a model does before anything in it is changed.

What a model calls, and in which order, is in no list of its layers: ``forward`` is a program. Running it once on the
first batch answers for every way of writing it (nested containers, functional calls, loops), where reading its source
answers for some. Nothing of it stays: no gradient is computed, buffers (batch-norm statistics) and every random
generator go back to what they were, so the training that follows is the same bit for bit.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from torchspeed.batch import map_tensors
from torchspeed.errors import NotApplicable
from torchspeed.run import Run


def first_loss(run: Run) -> Tensor:
    """The loss of the first batch, in training mode and with a graph; model and generators are then as before.

    Raises NotApplicable in a loop of the user's own, whose loss is not known, and where the batch or the model fails
    (a fault of the job: the training itself says it best).
    """
    if not run.holds_loop:
        raise NotApplicable("inside a loop of your own there is no batch and no loss to look at the model with")
    with undisturbed(run.model):
        try:
            batch = map_tensors(run.loader.batch(0, 0), lambda tensor: tensor.to(run.device))
            with torch.enable_grad(), run.step_context():
                return run.compute_loss(run.model, batch)
        except Exception as error:
            first_line = next(iter(str(error).splitlines()), "")
            raise NotApplicable(f"a first batch raised {type(error).__name__}: {first_line}") from error


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside, buffers of ``model`` and random generators are afterwards what they were."""
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    python, numpy = random.getstate(), np.random.get_state()
    cuda = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for module, name, buffer, value in kept:
                module._buffers[name] = buffer
                buffer.copy_(value)
