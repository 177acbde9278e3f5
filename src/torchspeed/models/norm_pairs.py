"""Linear layers and convolutions whose output goes to one batch norm and nowhere else.

Such a pair is one linear map in two calls: in training the norm takes the layer's bias away again, in evaluation the
norm is a scale and a shift that the layer could do itself. Whether anything else reads the layer's output is seen in
one forward pass: every operator that PyTorch runs is asked which storages it reads, so that it does not matter how the
model is written.
"""

from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchspeed.models.probe import first_loss
from torchspeed.run import Run

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Pair:
    """Qualified names of a layer and of the batch norm that alone reads its output."""

    layer: str
    norm: str


def norm_pairs(run: Run) -> list[Pair]:
    """Pairs of ``run.model`` as seen on the first batch; in a loop of the user's own, neighbours in Sequentials.

    Raises NotApplicable where the batch fails.
    """
    if not run.holds_loop:
        return _neighbours(run.model)
    watch = _Watch(run.model)
    with watch.hooks, watch:
        first_loss(run)
    return watch.pairs()


def _neighbours(model: nn.Module) -> list[Pair]:
    return [
        Pair(f"{prefix}{first}", f"{prefix}{second}")
        for name, module in model.named_modules()
        if type(module).forward is nn.Sequential.forward
        for prefix in [f"{name}." if name else ""]
        for (first, layer), (second, norm) in pairwise(module.named_children())
        if type(layer) in LAYERS and type(norm) in NORMS and not isinstance(layer, nn.Linear)
    ]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which module reads the output of which layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[str] = [""]
        self.calls: Counter[str] = Counter()
        self.inputs: dict[str, int] = {}
        self.outputs: dict[int, str] = {}
        self.readers: dict[int, set[str]] = defaultdict(set)
        self.channels_first: set[str] = set()
        self.alive: list[Any] = []  # a storage that is freed would give its address to another
        self.kinds = {name: type(module) for name, module in model.named_modules()}
        self.hooks = ExitStack()
        for name, module in model.named_modules():
            before, after = self._hooks(name)
            self.hooks.callback(module.register_forward_pre_hook(before).remove)
            self.hooks.callback(module.register_forward_hook(after, always_call=True).remove)

    def _hooks(self, name: str) -> tuple[Any, Any]:
        def before(module: nn.Module, arguments: Any) -> None:
            self.running.append(name)
            self.calls[name] += 1
            if type(module) in NORMS:
                self.inputs[name] = _storage(arguments[0])

        def after(module: nn.Module, arguments: Any, output: Any) -> None:
            self.running.pop()
            if type(module) in LAYERS and isinstance(output, Tensor):
                self.alive.append(output)
                self.outputs[_storage(output)] = name
                # A batch norm counts channels in dimension 1, a Linear in the last.
                if not isinstance(module, nn.Linear) or output.ndim == 2:
                    self.channels_first.add(name)

        return before, after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor) and (storage := _storage(leaf)) in self.outputs:
                self.readers[storage].add(self.running[-1])
        return func(*args, **(kwargs or {}))

    def pairs(self) -> list[Pair]:
        once = {name for name, count in self.calls.items() if count == 1}
        return [
            Pair(layer, norm)
            for storage, layer in self.outputs.items()
            for norm in self.readers[storage]
            if len(self.readers[storage]) == 1
            and self.kinds.get(norm) in NORMS
            and self.inputs.get(norm) == storage
            and {layer, norm} <= once
            and layer in self.channels_first
        ]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
