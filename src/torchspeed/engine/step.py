"""One optimizer step, from a batch on the host to updated weights. Nothing in it waits for a device."""

from collections.abc import Callable

import torch
from torch import Tensor

from torchspeed.batch import map_tensors
from torchspeed.job import Batch
from torchspeed.parallel.micro_batches import split
from torchspeed.run import Run


def make_step(run: Run) -> Callable[[Batch], Tensor]:
    """``batch -> loss``: forward, backward, clip, update. The loss stays on its device, detached."""
    optimizer, model = run.optimizer, run.model
    clipped = list(model.parameters()) if run.clip_grad_norm is not None else []
    plain = run.scaler is None and run.micro_batches == 1 and not run.step_contexts

    def forward_backward(batch: Batch, weight: float) -> Tensor:
        with run.step_context():
            loss = run.compute_loss(model, batch)
        if weight != 1.0:
            loss = loss * weight
        (loss if run.scaler is None else run.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(batch: Batch) -> Tensor:
        batch = to_device(batch, run.device)
        optimizer.zero_grad()
        if plain:
            loss = run.compute_loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
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
        return loss

    return step


def to_device(batch: Batch, device: torch.device) -> Batch:
    """``batch`` on ``device``; a GPU copies from pinned memory, so that nothing waits for it."""
    if device.type == "cpu":
        return batch

    def move(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return map_tensors(batch, move)
