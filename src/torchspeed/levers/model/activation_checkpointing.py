"""Of each block only the input is kept; what is inside is computed again when the backward pass comes to it.

Physically: backward needs the activations of every layer, so all of them wait in memory from their forward pass on.
Recomputed block by block they are alive one block at a time; the price is a second forward pass, a third more work.
It wins where memory is what limits: a batch, a sequence or a model that does not fit otherwise, or a larger batch that
is faster by more than a third. It loses time everywhere else, always. "half" does it to every second block: half of
the memory for half of the price. EXACT: the same kernels on the same numbers, with the generators put back
for dropout; a block that changes its own buffers in forward (batch norm) would change them twice, so it is left alone.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174;
https://docs.pytorch.org/docs/stable/checkpoint.html
"""

from collections import Counter
from collections.abc import Iterator
from types import MethodType
from typing import Any, final

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.models.rewrite import Forward, forward_of, set_forward
from torchspeed.run import Run


def checkpoint_module(module: nn.Module) -> None:
    """``module`` keeps its inputs alone for the backward pass, in place; ``state_dict`` is the same."""
    written = forward_of(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return written(self, *args, **kwargs)
        kernels = _attention_kernels()
        # Backward runs outside of the contexts of forward. PyTorch puts autocast back, but not these.
        again = written if len(kernels) == len(_KERNELS) else _with_kernels(kernels, written)
        return checkpoint(MethodType(again, self), *args, use_reentrant=False, preserve_rng_state=True, **kwargs)

    set_forward(module, forward)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Children of one class, two or more, of a ModuleList or Sequential; the outermost, and only if they may run twice.

    They have children of their own (a single layer keeps little beside its input) and parameters.
    """
    return list(_repeated(model))


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    counts = Counter(type(child) for child in module.children())
    for child in module.children():
        listed = isinstance(module, (nn.ModuleList, nn.Sequential)) and counts[type(child)] > 1
        if listed and any(child.children()) and any(True for _ in child.parameters()) and _may_run_twice(child):
            yield child
        else:
            yield from _repeated(child)


def _may_run_twice(block: nn.Module) -> bool:
    """No running statistics, and no power iteration of a spectral norm, in or under ``block``."""
    for module in block.modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            return False
        if "SpectralNorm" in type(module).__name__ or any(
            "SpectralNorm" in type(hook).__name__ for hook in module._forward_pre_hooks.values()
        ):
            return False
    return True


_KERNELS = (
    (SDPBackend.FLASH_ATTENTION, torch.backends.cuda.flash_sdp_enabled),
    (SDPBackend.EFFICIENT_ATTENTION, torch.backends.cuda.mem_efficient_sdp_enabled),
    (SDPBackend.CUDNN_ATTENTION, torch.backends.cuda.cudnn_sdp_enabled),
    (SDPBackend.MATH, torch.backends.cuda.math_sdp_enabled),
)


def _attention_kernels() -> list[SDPBackend]:
    """The kernels that attention may take now."""
    return [kernel for kernel, is_allowed in _KERNELS if is_allowed()]  # type: ignore[no-untyped-call]


def _with_kernels(kernels: list[SDPBackend], written: Forward) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(kernels):
            return written(*args, **kwargs)

    return forward


@final
class ActivationCheckpointing(Lever):
    name = "activation_checkpointing"
    pillar = "model"
    stage = Stage.MODEL
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.MEMORY})
    usual_gain = 1.0

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "blocks", "half")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        """What repeats in a model is seen when it is applied."""

    def apply(self, run: Run, option: Option) -> None:
        blocks = repeated_blocks(run.model)
        if not blocks:
            raise NotApplicable(
                "the model has no repeated blocks (ModuleList or Sequential of one class) that may run twice: "
                "blocks with running statistics, such as batch norm's, would move them twice"
            )
        for block in blocks[:: 1 if option == "blocks" else 2]:
            checkpoint_module(block)
