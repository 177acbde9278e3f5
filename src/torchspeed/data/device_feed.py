"""Batches on their way to a device, one ahead of the step, without waiting for the copy.

A copy from page-locked memory goes on while the processor does something else, and so the memory must not be filled
anew before it has ended: each host batch is held until the device says that its copy is done.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchspeed.batch import map_tensors


class DeviceFeed:
    """``moved(batches)`` gives them on ``device``; for the host, as they are."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def moved(self, batches: Iterator[Any]) -> Iterator[Any]:
        if self.device.type == "cpu":
            return batches
        return self._copied(batches) if self.device.type == "cuda" else map(self._move, batches)

    def _copied(self, batches: Iterator[Any]) -> Iterator[Any]:
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        held: deque[tuple[torch.cuda.Event, Any]] = deque()
        ahead: deque[tuple[torch.cuda.Event, Any]] = deque()
        try:
            for batch in batches:
                with torch.cuda.stream(stream):
                    copy = self._move(batch)
                    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    done.record(stream)
                held.append((done, batch))
                ahead.append((done, copy))
                while held and held[0][0].query():  # type: ignore[no-untyped-call]
                    held.popleft()
                if len(ahead) > 1:
                    yield self._ready(*ahead.popleft())
            while ahead:
                yield self._ready(*ahead.popleft())
        finally:  # also when the consumer breaks off
            for done, _ in held:
                done.synchronize()

    def _ready(self, done: torch.cuda.Event, batch: Any) -> Any:
        """The consumer's stream waits for the copy; the copy's memory is not given back before the consumer is done."""
        consumer = torch.cuda.current_stream(self.device)
        consumer.wait_event(done)
        map_tensors(batch, lambda tensor: tensor.record_stream(consumer))
        return batch

    def _move(self, batch: Any) -> Any:
        return map_tensors(batch, self._move_tensor)

    def _move_tensor(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
