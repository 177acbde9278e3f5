"""Every operation of a training step, seen where PyTorch dispatches it, and the module that it belongs to.

Going forward it belongs to the innermost module that is running. Going back no module runs, but autograd numbers the
nodes of its graph as they are made: the numbers handed out while a module ran are those of the nodes that compute its
gradients. That holds for modules that are called twice, that share weights, that change their input in place or whose
input needs no gradient, where hooks on tensors fail; and nothing is hung on anybody's tensors. (Reentrant checkpoints
on a GPU are the exception: another thread numbers their nodes.)
"""

from bisect import bisect_right
from collections import Counter as Tally
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch._ops import HigherOrderOperator
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from torchspeed.engine.step import BACKWARD, FORWARD, OPTIMIZER
from torchspeed.measure.flops import flops_of, format_of, multiplies
from torchspeed.measure.traffic import bytes_of, computes

Piece = tuple[str, float, float]  # of an operation: the format it multiplies in ("" if it does not), FLOPs, bytes
_engine: Any = torch._C  # what it says of autograd has no types


class OperationCounter:
    """While it is entered, tallies what this thread and its backward passes dispatch.

    tallies: (part, module) -> how many operations of each kind. The part is "forward", "backward", or "optimizer" while
    ``updating`` is set; the module is the name in ``model``, None for what happens outside of it.
    kinds: module -> class, in the order of their first call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tallies: dict[tuple[str, str | None], Tally[Piece]] = {}
        self.kinds: dict[str, str] = {}
        self.updating = False
        self._names = {id(module): _unwrapped(name) for name, module in model.named_modules()}
        self._running: list[tuple[int, str | None]] = []
        self._numbers = [0]  # from the first of these numbers on, nodes belong to the first of these modules, and so on
        self._owners: list[str | None] = [None]
        self._entered = ExitStack()

    def __enter__(self) -> "OperationCounter":
        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(self._enter_module).remove)
            stack.callback(register_module_forward_hook(self._leave_module, always_call=True).remove)
            stack.enter_context(_Dispatched(self))
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._entered.close()

    def tally(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        """One operation that was just dispatched."""
        flops = flops_of(operation, arguments, options, result)
        piece = (format_of(operation, arguments) if flops else "", flops, 0.0)
        if flops or not self.updating:  # an update moves what it must in one go, whoever counts it
            piece = (*piece[:2], bytes_of(operation, arguments, options, result))
        self.tallies.setdefault(self._place(), Tally())[piece] += 1

    def _place(self) -> tuple[str, str | None]:
        if self.updating:
            return OPTIMIZER, None
        running = self._running[-1][1] if self._running else None
        if _engine._current_graph_task_id() == -1:
            return FORWARD, running
        node = _engine._current_autograd_node()
        if self._running or node is None:  # a checkpoint runs its modules again
            return BACKWARD, running
        return BACKWARD, self._owners[bisect_right(self._numbers, node._sequence_nr()) - 1]

    def _enter_module(self, module: nn.Module, _: Any) -> None:
        name = self._names.get(id(module))
        if name is not None:
            self.kinds.setdefault(name, type(module).__name__)
        self._running.append((id(module), name))
        self._hand_over(name)

    def _leave_module(self, module: nn.Module, *_: Any) -> None:
        while self._running and self._running.pop()[0] != id(module):
            pass  # modules that an exception left
        self._hand_over(self._running[-1][1] if self._running else None)

    def _hand_over(self, name: str | None) -> None:
        self._numbers.append(_engine._autograd._get_sequence_nr())
        self._owners.append(name)


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True

    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if isinstance(operation, HigherOrderOperator):
            return operation(*args, **options)
        if not multiplies(operation) and operation._can_decompose():  # in inference mode composites arrive whole
            with self:
                return operation.decompose(*args, **options)
        result = operation(*args, **options)
        if computes(operation):
            self.counter.tally(operation, args, options, result)
        return result


def _unwrapped(name: str) -> str:
    """The name without what ``torch.compile`` puts around a module."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
