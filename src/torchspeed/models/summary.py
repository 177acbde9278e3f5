"""What a model costs, module by module: parameters, FLOPs and activation memory.

Three numbers say most about a step before it is timed. FLOPs over the matrix rate of the machine are a floor under
its seconds; parameters fix the memory and the traffic of gradients and optimizer; and activations are what the
forward pass keeps for the backward pass, which is usually most of the memory and grows with the batch. Where
they sit tells which lever can help: FLOPs call for precision, activation bytes without FLOPs for fusion or
recomputation.

The figures are observed in one forward pass. FLOPs come from ``torch.utils.flop_counter`` (2 per multiply-add;
matrix products, convolutions and attention, the last without credit for a causal mask; elementwise work is
not counted). Activation bytes come from ``torch.autograd.graph.saved_tensors_hooks``: what autograd really
keeps, in the dtype in which it is kept, not the sizes of outputs, which may be freed at once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from torchspeed.errors import JobError

Shape = Sequence[int]


@dataclass(frozen=True)
class Cost:
    """Parameters (elements), FLOPs of one forward pass, and bytes kept for the backward pass."""

    parameters: int = 0
    flops: int = 0
    activation_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.flops + other.flops,
            self.activation_bytes + other.activation_bytes,
        )


@dataclass(frozen=True)
class ModuleCost:
    """One module. ``own`` is its cost without its children, ``total`` with them: a module's ``total`` is its ``own``
    plus the ``total`` of each child.

    ``name`` is the qualified name (the model itself is ``""``), ``kind`` the class, ``calls`` how often forward
    ran, ``output_shape`` that of the first tensor of its last output, None if there was none.
    """

    name: str
    kind: str
    calls: int
    output_shape: tuple[int, ...] | None
    own: Cost
    total: Cost


@dataclass(frozen=True)
class Summary:
    """The modules in the order of ``named_modules``, the model itself first; ``str`` of it is a table."""

    modules: tuple[ModuleCost, ...]

    @property
    def total(self) -> Cost:
        """The cost of the whole model."""
        return self.modules[0].total

    def __getitem__(self, name: str) -> ModuleCost:
        """The module of that qualified name; raises ``KeyError``."""
        for module in self.modules:
            if module.name == name:
                return module
        raise KeyError(name)

    def __str__(self) -> str:
        header = ("module", "class", "output", "parameters", "FLOPs", "activations")
        rows = [header]
        for module in self.modules:
            shape = "-" if module.output_shape is None else "×".join(map(str, module.output_shape)) or "scalar"
            rows.append((module.name or "(model)", module.kind, shape, *_figures(module.total)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "─" * len(lines[0]))
        lines.append("Each line includes the modules inside it. FLOPs: one forward pass, 2 per multiply-add.")
        lines.append("Activations: bytes kept for the backward pass.")
        return "\n".join(lines)


def summary(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Summary:
    """Runs ``model`` forward once on ``example`` (its one argument, or the tuple of them) and adds up the cost.

    The model is run in the mode it is in, train or eval, with gradients recorded, also inside ``no_grad`` or
    ``inference_mode``; under ``torch.autocast`` the cost is that under autocast. A shared parameter counts once,
    at the first module that holds it; a shared module is one line, its calls added up; a tensor kept by several
    modules counts once, at the first. Parameters, buffers and the example itself are no activations.

    Afterwards the model is as it was: mode, parameters, gradients, hooks, buffers (batch-norm statistics too), and
    the random generators of the CPU and of the CUDA devices in use. What forward itself writes to other
    Python attributes stays written. Raises ``JobError`` for a lazy module that has no shape yet, and for an
    example that is neither a tensor nor a tuple of tensors.
    """
    given = (example,) if isinstance(example, Tensor) else example
    if not isinstance(given, tuple) or not all(isinstance(tensor, Tensor) for tensor in given):
        raise JobError(f"summary: example is a {type(example).__name__}; give a tensor or a tuple of tensors")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise JobError(f"summary: {name} has no shape yet; run the model once on a batch before")

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # Forward works on copies, because it may write to its input (in-place ReLU) and to buffers (batch norm).
        arguments = tuple(tensor.detach().clone() for tensor in given)
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        free = (*model.parameters(), *buffers.values(), *arguments)
        stack.enter_context(_generators_kept(free))
        counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=_FORMULAS))
        meter = _Meter(counter, free)
        stack.enter_context(meter.attached(model))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(meter.save, meter.restore))
        torch.func.functional_call(model, buffers, arguments)
    return Summary(meter.result(model))


class _Meter:
    """Charges FLOPs and saved tensors to the innermost module that is running."""

    def __init__(self, counter: FlopCounterMode, free: tuple[Tensor, ...]) -> None:
        self.counter = counter
        self.running: list[str] = []
        self.charged = 0
        self.calls: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.activation_bytes: Counter[str] = Counter()
        self.shapes: dict[str, tuple[int, ...]] = {}
        # A storage is known by its address, and it is held here so that no later one can take that address.
        self.storages = {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in free)}

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as handles:
            for name, module in model.named_modules():
                before, after = self._hooks(name)
                handles.callback(module.register_forward_pre_hook(before).remove)
                # Always, so that a forward that catches the error of a child does not leave the child running.
                handles.callback(module.register_forward_hook(after, always_call=True).remove)
            yield

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, arguments: Any) -> None:
            self._charge()
            self.running.append(name)
            self.calls[name] += 1

        def after(module: nn.Module, arguments: Any, output: Any) -> None:
            self._charge()
            self.running.pop()
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor):
                    self.shapes[name] = tuple(leaf.shape)
                    break

        return before, after

    def _charge(self) -> None:
        now = self.counter.get_total_flops()
        if self.running:
            self.flops[self.running[-1]] += now - self.charged
        self.charged = now

    def save(self, tensor: Tensor) -> Tensor:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.storages:
                self.storages[storage._cdata] = storage
                self.activation_bytes[self.running[-1]] += storage.nbytes()
        # Detached, or the graph would hold an output that holds the graph.
        return tensor.detach()

    def restore(self, tensor: Tensor) -> Tensor:
        return tensor

    def result(self, model: nn.Module) -> tuple[ModuleCost, ...]:
        seen: set[Tensor] = set()
        own: dict[str, Cost] = {}
        for name, module in model.named_modules():
            parameters = set(module.parameters(recurse=False)) - seen
            seen |= parameters
            elements = sum(parameter.numel() for parameter in parameters)
            own[name] = Cost(elements, self.flops[name], self.activation_bytes[name])
        total = dict(own)
        # A child comes after its parent in the order of named_modules, so its total is complete here.
        for name in reversed(own):
            if name:
                parent = name.rpartition(".")[0]
                total[parent] += total[name]
        return tuple(
            ModuleCost(name, type(module).__name__, self.calls[name], self.shapes.get(name), own[name], total[name])
            for name, module in model.named_modules()
        )


@contextmanager
def _generators_kept(tensors: tuple[Tensor, ...]) -> Iterator[None]:
    cuda = {tensor.device.index for tensor in tensors if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cuda)):
        yield


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """query: [..., T, D]; key: [..., S, D]; value: [..., S, E]."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _onednn_rnn_flops(sequence: Shape, weight_ih: Shape, weight_hh: Shape, *_: Any, **__: Any) -> int:
    """One layer, one direction. sequence: [T, B, I]; weights: [gates * H, I] and [gates * H, H]."""
    return 2 * prod(sequence[:-1]) * (prod(weight_ih) + prod(weight_hh))


def _cudnn_rnn_flops(sequence: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """All layers and directions. sequence: [T, B, I] or [B, T, I]; the weights of two dimensions are matrices."""
    return 2 * prod(sequence[:-1]) * sum(prod(shape) for shape in weights if len(shape) == 2)


# Fused kernels that torch.utils.flop_counter has no formula for; it would count them as nothing. Which of them
# exist depends on the version of torch.
_BY_NAME: dict[str, Callable[..., int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention_flops,
    "_scaled_dot_product_attention_math_for_mps": _attention_flops,
    "mkldnn_rnn_layer": _onednn_rnn_flops,
    "_cudnn_rnn": _cudnn_rnn_flops,
}
_FORMULAS: dict[Any, Callable[..., int]] = {
    getattr(torch.ops.aten, name): formula for name, formula in _BY_NAME.items() if hasattr(torch.ops.aten, name)
}


def _figures(cost: Cost) -> tuple[str, str, str]:
    return (
        f"{cost.parameters:,}",
        _scaled(cost.flops, 1000, ("", " k", " M", " G", " T", " P")),
        _scaled(cost.activation_bytes, 1024, (" B", " KiB", " MiB", " GiB", " TiB")),
    )


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    """Three significant digits and a unit."""
    power = 0
    while value >= base and power + 1 < len(units):
        value /= base
        power += 1
    return f"{value:.3g}{units[power]}" if value < 100 else f"{value:.0f}{units[power]}"
