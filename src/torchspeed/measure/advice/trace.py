"""One forward and backward pass, watched: which operations ran, in which module, on whose values, from which line.

A syntax tree says what is written; only a run says what is done: whether it is this softmax that reaches this loss, or
whether the output of a convolution goes to a batch norm and nowhere else. Every function of PyTorch called from Python
passes through ``torch.overrides.TorchFunctionMode``, methods and modules alike; the calls that it makes itself do not.
Tensors are numbered as they appear; an operation in place gives its tensor a new number, as it is another value then.

The run is left as it was: random generators, buffers (running statistics), training flags; gradients are computed
aside (``torch.autograd.grad``) and dropped. What a forward pass does to plain attributes of its own stays done.
"""

import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from torchspeed.data.fetch import generators_kept
from torchspeed.engine.step import to_device
from torchspeed.measure.advice.source import is_users_frame, place
from torchspeed.parallel.micro_batches import split
from torchspeed.run import Run

VIEWS = frozenset({"view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze"}) | {
    *("transpose", "permute", "movedim", "contiguous", "clone", "float", "to", "type_as", "__getitem__", "__get__")
}
SYNCS = frozenset({"item", "tolist", "cpu", "numpy", "__array__", "__float__", "__int__", "__bool__", "__index__"}) | {
    *("__repr__", "__format__")
}


@dataclass(frozen=True)
class Value:
    """A tensor as it is between two operations. ``parameter``: its qualified name, if it is one of the model's."""

    number: int
    shape: tuple[int, ...]
    parameter: str | None = None

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Call:
    """One operation. ``module``: the innermost one that was running. ``arguments``, ``options``: with a ``Value`` for
    each tensor. ``place``: the innermost line of the user's on the way to it, or "". ``by_user``: that line called it,
    and no library in between.
    """

    op: str
    module: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    outputs: tuple[Value, ...]
    place: str
    by_user: bool

    @property
    def input(self) -> Value | None:
        """The tensor that the operation is about."""
        first = self.arguments[0] if self.arguments else self.options.get("input")
        return first if isinstance(first, Value) else None

    def argument(self, position: int, name: str) -> Any:
        return self.arguments[position] if len(self.arguments) > position else self.options.get(name)


@dataclass
class Trace:
    """``batch``: numbers of the tensors in it. ``ran``: names of the modules that were called. ``ends_in_eval``: the
    step left the model in evaluation mode.
    """

    batch: frozenset[int] = frozenset()
    calls: list[Call] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    ends_in_eval: bool = False
    gradients: frozenset[str] | Exception = frozenset()
    required: frozenset[str] = frozenset()
    _producers: dict[int, Call] = field(default_factory=dict)
    _consumers: dict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))

    @property
    def without_gradient(self) -> frozenset[str]:
        """Parameters that require a gradient and got none. Raises what the backward pass raised."""
        if isinstance(self.gradients, Exception):
            raise self.gradients
        return self.required - self.gradients

    def add(self, call: Call) -> None:
        self.calls.append(call)
        for value in tree_leaves((call.arguments, dict(call.options))):
            if isinstance(value, Value):
                self._consumers[value.number].append(call)
        self._producers.update((value.number, call) for value in call.outputs)

    def of(self, *ops: str) -> Iterator[Call]:
        return (call for call in self.calls if call.op in ops)

    def producer(self, value: Value | None, through: frozenset[str] = frozenset()) -> Call | None:
        """What computed ``value``; operations named in ``through`` are looked through."""
        call = None if value is None else self._producers.get(value.number)
        while call is not None and call.op in through and call.input is not None:
            call = self._producers.get(call.input.number)
        return call

    def only_consumer(self, value: Value) -> Call | None:
        consumers = self._consumers[value.number]
        return consumers[0] if len(consumers) == 1 else None


def trace(run: Run, number: int = 0) -> Trace:
    """The pass over batch ``number`` of the first epoch. Raises what the model raises."""
    found = Trace()
    with ExitStack() as stack:
        stack.enter_context(_kept(run))
        torch.manual_seed(number)
        batch = to_device(run.loader.batch(0, number), run.device)
        batch = next(iter(split(batch, run.micro_batches)))[0] if run.micro_batches > 1 else batch
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.enable_grad())
        watcher = _Watcher(run.model, found)
        found.batch = frozenset(watcher.value(leaf).number for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
        with run.step_context(), watcher.modules_named(), watcher:
            loss = run.compute_loss(run.model, batch)
        found.ends_in_eval = not run.model.training
        trained = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
        found.required = frozenset(trained)
        try:
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            found.gradients = frozenset(name for name, g in zip(trained, gradients, strict=True) if g is not None)
        except RuntimeError as error:  # reentrant checkpoints, for instance, cannot be asked in this way
            found.gradients = error
    return found


class _Watcher(TorchFunctionMode):
    def __init__(self, model: nn.Module, found: Trace) -> None:
        super().__init__()
        self.model, self.found = model, found
        self.stack = [""]
        self.values: Any = WeakTensorKeyDictionary()  # a tensor that is gone must not lend its number to another
        self.count = 0
        self.parameters = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        arguments, options = tree_map(self._seen, args), tree_map(self._seen, kwargs or {})
        result = func(*args, **(kwargs or {}))
        op = getattr(func, "__name__", str(func))
        changed = args[:1] if op == "__setitem__" else result
        outputs = tuple(self.value(leaf, new=True) for leaf in tree_leaves(changed) if isinstance(leaf, Tensor))
        if outputs or op in SYNCS:
            where, by_user = _users_line()
            self.found.add(
                Call(
                    op.rstrip("_") if not op.startswith("_") else op,
                    self.stack[-1],
                    tuple(arguments),
                    options,
                    outputs,
                    where,
                    by_user,
                )
            )
        return result

    def value(self, tensor: Tensor, new: bool = False) -> Value:
        if new or tensor not in self.values:
            self.values[tensor] = self.count
            self.count += 1
        return Value(self.values[tensor], tuple(tensor.shape), self.parameters.get(id(tensor)))

    def _seen(self, leaf: Any) -> Any:
        return self.value(leaf) if isinstance(leaf, Tensor) else leaf

    @contextmanager
    def modules_named(self) -> Iterator[None]:
        def enter(name: str, *_: Any) -> None:
            self.stack.append(name)
            self.found.ran.add(name)

        def leave(*_: Any) -> None:
            self.stack.pop()

        hooks = []
        try:
            for name, module in self.model.named_modules():
                hooks.append(module.register_forward_pre_hook(partial(enter, name)))
                hooks.append(module.register_forward_hook(leave, always_call=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _users_line() -> tuple[str, bool]:
    """(place of the innermost line of the user's, whether nothing but PyTorch lies between it and the operation)."""
    frame: types.FrameType | None = sys._getframe(2)
    direct = True
    while frame is not None and frame.f_code is not trace.__code__:
        name = str(frame.f_globals.get("__name__", ""))
        if name.split(".")[0] != "torch":
            if is_users_frame(frame):
                return place(frame.f_code.co_filename, frame.f_lineno), direct
            direct = False
        frame = frame.f_back
    return "", False


@contextmanager
def _kept(run: Run) -> Iterator[None]:
    """Generators, buffers and training flags stay as they are."""
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in run.model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    flags = [(module, module.training) for module in run.model.modules()]
    devices = [run.device] if run.device.type == "cuda" else []
    restore: Callable[[], None] = partial(_restore, buffers, flags)
    with generators_kept(), torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            restore()


def _restore(buffers: list[tuple[nn.Module, str, Tensor, Tensor]], flags: list[tuple[nn.Module, bool]]) -> None:
    for module, name, buffer, content in buffers:
        with torch.no_grad():
            buffer.copy_(content)
        module._buffers[name] = buffer
    for module, training in flags:
        module.training = training
