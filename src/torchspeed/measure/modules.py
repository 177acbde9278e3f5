"""Seconds of each module of a model, forward and backward, its children's not included.

Forward: the time between two entries or exits of modules belongs to the module that is innermost then. Backward: each
operation of a forward pass leaves a node in the graph of gradients; nodes that lie between a module's outputs and its
inputs and belong to no module inside it are its own, and are timed one by one. PyTorch's full backward hooks would put
nodes of their own into the graph, on which modules that work in place fail; these hooks change nothing.

Hooks cost some microseconds each, so these are steps of their own, apart from those that ``measure.parts`` times.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from torchspeed.engine.step import BACKWARD, FORWARD, make_step, unmarked
from torchspeed.errors import NotApplicable
from torchspeed.measure.clock import Marks
from torchspeed.measure.parts import Walk, middle_half
from torchspeed.run import Run

MOST_STEPS = 30


@dataclass(frozen=True)
class ModuleSeconds:
    """Mean seconds, in the middle half of the steps, of the module ``name`` of class ``kind`` without its children.

    share: ``total`` over the mean of these very steps.
    """

    name: str
    kind: str
    forward: float
    backward: float
    share: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


def time_modules(run: Run, *, seconds: float = 3.0) -> tuple[ModuleSeconds, ...]:
    """Modules that took any time, in the order of ``named_modules``, from 1 to 30 full steps (the weights move).

    Raises NotApplicable where layers cannot be told apart (a compiled model, a step that is one program), StepFailed.
    """
    check(run)
    walk, marks = Walk(run), Marks(run.device)
    names = {module: name for name, module in run.model.named_modules()}
    steps: list[dict[Any, float]] = []
    began = time.perf_counter()
    while True:
        with _Watch(list(names), marks) as watch:
            marks.start()
            full = walk.step(make_step(run, watch.part_ended), unmarked)
            marks(None)
        if full:
            steps.append(_sums(marks.read()))
        spent = time.perf_counter() - began
        if len(steps) > MOST_STEPS or (spent > seconds and len(steps) > (0 if spent > 2 * seconds else 1)):
            break
    lasting = steps[1:] or steps  # the first holds what is done once
    typical = middle_half(lasting, lambda step: sum(step.values()))
    whole = fmean(sum(step.values()) for step in typical)
    found = []
    for module, name in names.items():
        forward, backward = (fmean(step[module, part] for step in typical) for part in (FORWARD, BACKWARD))
        if forward or backward:
            share = (forward + backward) / whole
            found.append(ModuleSeconds(name, type(module).__name__, forward, backward, share))
    return tuple(found)


def _sums(read: list[tuple[Any, float]]) -> dict[Any, float]:
    sums: dict[Any, float] = defaultdict(float)
    for label, seconds in read:
        sums[label] += seconds
    return sums


def check(run: Run) -> None:
    """Raise NotApplicable where hooks would measure something else than what is trained."""
    if run.step_wrappers:
        raise NotApplicable("the step is one program")
    for module in run.model.modules():
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
            raise NotApplicable("the model is compiled, and its layers are fused")


class _Watch:
    """A context in which the modules and the graph of one step mark their times, as (module, part)."""

    def __init__(self, modules: list[nn.Module], marks: Marks) -> None:
        self.modules, self.marks = modules, marks
        self.inside: list[tuple[nn.Module, set[Node]]] = []
        self.owned: set[Node] = set()
        self.part = FORWARD
        self.hooks = ExitStack()

    def __enter__(self) -> "_Watch":
        for module in self.modules:
            self._keep(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._keep(module.register_forward_hook(self._leave))
        return self

    def __exit__(self, *exception: object) -> None:
        self.hooks.close()

    def part_ended(self, part: str) -> None:
        """Modules that run after the end of "forward" are run once more, for their backward pass."""
        self.part = BACKWARD if part == FORWARD else FORWARD

    def _enter(self, module: nn.Module, arguments: Any, keywords: Any) -> None:
        self.marks((self.inside[-1][0], self.part) if self.inside else None)
        self.inside.append((module, _nodes((arguments, keywords))))

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.marks((module, self.part))
        _, inputs = self.inside.pop()
        if self.part == FORWARD:
            self._own(module, _nodes(output), inputs)
        self.marks(None)  # following the graph took time that is nobody's

    def _own(self, module: nn.Module, outputs: set[Node], inputs: set[Node]) -> None:
        begin, end = self._hooks_of(module)
        waiting, seen = list(outputs - inputs), set(outputs)
        while waiting:
            node = waiting.pop()
            if node not in self.owned:
                self.owned.add(node)
                self._keep(node.register_prehook(begin))
                self._keep(node.register_hook(end))
            for before, _ in node.next_functions:
                if before is not None and before not in seen and before not in inputs:
                    seen.add(before)
                    waiting.append(before)

    def _hooks_of(self, module: nn.Module) -> tuple[Callable[..., None], Callable[..., None]]:
        def begin(gradients: Any) -> None:
            self.marks(None)

        def end(inputs: Any, outputs: Any) -> None:
            self.marks((module, BACKWARD))

        return begin, end

    def _keep(self, hook: Any) -> None:
        self.hooks.callback(hook.remove)


def _nodes(values: Any) -> set[Node]:
    return {leaf.grad_fn for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.grad_fn is not None}
