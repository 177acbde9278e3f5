"""One optimizer step, from a batch on the host to updated weights. Nothing in it waits for a device.

Each part of it ends with a mark, so that whoever measures sees the very step that is trained with.
"""

import torch
from torch import Tensor

from torchspeed.batch import map_tensors
from torchspeed.job import Batch
from torchspeed.parallel.micro_batches import split
from torchspeed.run import Mark, Run, Step

TRANSFER, FORWARD, BACKWARD, OPTIMIZER = "transfer", "forward", "backward", "optimizer"


def unmarked(part: str) -> None:
    """Nobody measures."""


def make_step(run: Run, mark: Mark = unmarked) -> Step:
    """``batch -> loss``: forward, backward, clip, update. The loss stays on its device, detached.

    ``mark`` is called at the end of each part, with its name.
    """
    optimizer, model = run.optimizer, run.model
    clipped = list(model.parameters()) if run.clip_grad_norm is not None else []
    plain = run.scaler is None and run.micro_batches == 1 and not run.step_contexts

    def forward_backward(batch: Batch, weight: float) -> Tensor:
        with run.step_context():
            loss = run.compute_loss(model, batch)
        if weight != 1.0:
            loss = loss * weight
        mark(FORWARD)
        (loss if run.scaler is None else run.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        mark(BACKWARD)
        return loss.detach()

    def step(batch: Batch) -> Tensor:
        batch = to_device(batch, run.device)
        mark(TRANSFER)
        optimizer.zero_grad()
        mark(OPTIMIZER)
        if plain:
            loss = run.compute_loss(model, batch)
            mark(FORWARD)
            loss.backward()  # type: ignore[no-untyped-call]
            mark(BACKWARD)
            loss = loss.detach()
        else:
            pieces = [forward_backward(piece, weight) for piece, weight in split(batch, run.micro_batches)]
            loss = pieces[0] if len(pieces) == 1 else torch.stack(pieces).sum()
        if run.scaler is not None:
            run.scaler.unscale_(optimizer)
        if run.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(clipped, run.clip_grad_norm)
        if run.scaler is None:
            optimizer.step()
        else:
            run.scaler.step(optimizer)
            run.scaler.update()
        mark(OPTIMIZER)
        return loss

    whole: Step = step
    for wrap in run.step_wrappers:
        whole = wrap(whole)
    return whole


def to_device(batch: Batch, device: torch.device) -> Batch:
    """``batch`` on ``device``; a GPU copies from pinned memory, so that nothing waits for it."""
    if device.type == "cpu":
        return batch

    def move(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return map_tensors(batch, move)
