"""A run that may be stepped for a look at it, and is afterwards exactly what it was, bit for bit.

Put back are weights, buffers, gradients, the optimizer's state and settings, and the random generators, all in place:
whoever holds a tensor (a captured graph, a compiled step) still holds the right one. Copies lie in host memory. Not put
back are plain attributes that a model's ``forward`` sets, generators of its own, and its gradient scaler.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from torchspeed.data.fetch import generators_kept
from torchspeed.run import Run


@contextmanager
def untouched(run: Run) -> Iterator[None]:
    """Inside, ``run`` has no gradients and may be changed; at the end it is as it was."""
    kept = _Kept()
    for module in run.model.modules():
        kept.keep(module._parameters)
        kept.keep(module._buffers)
    kept.keep(vars(run.optimizer))
    parameters = {id(tensor): tensor for tensor in kept.tensors if tensor.requires_grad and tensor.is_leaf}
    gradients = [(parameter, parameter.grad) for parameter in parameters.values()]
    with generators_kept(), _device_generator_kept(run.device):
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            yield
        finally:
            kept.put_back()
            for parameter, gradient in gradients:
                parameter.grad = gradient


class _Kept:
    """Tensors, dictionaries and lists, nested as they like, with their contents."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._seen: set[int] = set()
        self._undo: list[Callable[[], object]] = []

    def keep(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            self._keep_tensor(value)
        elif isinstance(value, dict):
            self._keep_dictionary(value)
        elif isinstance(value, (list, tuple)):
            self._keep_sequence(value)

    def put_back(self) -> None:
        for undo in self._undo:
            undo()

    def _keep_tensor(self, tensor: Tensor) -> None:
        memory, copy = tensor.data, tensor.data.to("cpu", copy=True)
        self.tensors.append(tensor)

        def undo() -> None:
            if memory.layout is torch.strided and tensor.data_ptr() != memory.data_ptr():
                tensor.data = memory
            memory.copy_(copy)

        self._undo.append(undo)

    def _keep_dictionary(self, mapping: dict[Any, Any]) -> None:
        items = dict(mapping)

        def undo() -> None:
            mapping.clear()
            mapping.update(items)

        self._undo.append(undo)
        for item in items.values():
            self.keep(item)

    def _keep_sequence(self, sequence: list[Any] | tuple[Any, ...]) -> None:
        items = list(sequence)

        def undo() -> None:
            if isinstance(sequence, list):
                sequence[:] = items

        self._undo.append(undo)
        for item in items:
            self.keep(item)


@contextmanager
def _device_generator_kept(device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.callback(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)
        elif device.type == "mps":
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield
