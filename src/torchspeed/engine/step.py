"""One optimizer step, from a batch on the host to updated weights. Nothing in it waits for a device."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchspeed.job import Batch
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
    """``batch`` (tensors in tuples, lists, dictionaries) on ``device``; from pinned memory without waiting."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Tensor):
        if device.type == "cuda" and batch.device.type == "cpu":
            batch = batch.pin_memory()
        return batch.to(device, non_blocking=True)
    return _map(batch, lambda part: to_device(part, device))


def split(batch: Batch, pieces: int) -> Iterator[tuple[Batch, float]]:
    """Cut ``batch`` along the first dimension into ``pieces``, each with its share of the samples."""
    samples = batch_length(batch)
    if pieces == 1 or samples < 2:
        yield batch, 1.0
        return
    size = -(-samples // pieces)
    for start in range(0, samples, size):
        stop = min(start + size, samples)
        yield _cut(batch, start, stop), (stop - start) / samples


def batch_length(batch: Batch) -> int:
    """Samples in a batch: the first dimension of the first tensor in it; 0 without one."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else ()
    return next((length for length in map(batch_length, parts) if length), 0)


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    return batch[start:stop] if isinstance(batch, Tensor) else _map(batch, lambda part: _cut(part, start, stop))


def _map(batch: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(batch, dict):
        return {key: function(part) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(function, batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(map(function, batch))
    return batch
