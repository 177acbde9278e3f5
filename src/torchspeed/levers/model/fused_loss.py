"""Last linear layer and cross entropy together, a few rows at a time, with the gradient computed in the forward pass.

Physically: N tokens over C classes are N * C logits, and as written they cross memory about ten times and are kept
twice; for a vocabulary of 50 000 they are most of the memory of a language model. "linear" never stores them: a block
of rows is made, turned into its gradient in cache and multiplied away. "loss" alone saves the second copy of the
logits and half of their traffic, whatever computed them. Measured on a 2-core AVX-512 machine, layer and loss with
both gradients: 1.2× for 2 048 rows of 8 192 classes, 1.1× for 512 rows of 50 257; the loss alone: 2× for either. It
wins with thousands of classes. It loses with a hundred, where the logits fit into cache anyway and the Python around
them costs more. CLOSE: the gradients of the weight are summed block by block. Cross entropy over class indices without
class weights, however it is called; any other loss, and any other use of the logits, gets them as written.

Source: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009; Hsu et al., "Liger
Kernel", arXiv:2410.10989.
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.job import Batch
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.models.late_logits import Fused, LogitsSeen
from torchspeed.models.probe import first_loss
from torchspeed.run import Run

ComputeLoss = Callable[[nn.Module, Batch], Tensor]


class _FusedLoss:
    """``compute_loss`` with its cross entropy fused wherever a gradient is wanted. weight: see ``fuse_loss``."""

    def __init__(self, compute_loss: ComputeLoss, weight: Tensor | None) -> None:
        self.compute_loss = compute_loss
        self.weight = weight
        self.loss = getattr(compute_loss, "loss", None)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        if not torch.is_grad_enabled():
            return self.compute_loss(model, batch)
        with Fused(self.weight):
            return self.compute_loss(model, batch)


def fuse_loss(compute_loss: ComputeLoss, weight: Tensor | None = None) -> ComputeLoss:
    """``compute_loss`` with cross entropy in one pass, together with the linear layer whose parameter is ``weight``."""
    return _FusedLoss(compute_loss, weight)


@final
class FusedLoss(Lever):
    name = "fused_loss"
    pillar = "model"
    stage = Stage.MODEL
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.MEMORY, Bound.COMPUTE})
    usual_gain = 1.12

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "linear", "loss")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if facts.loss_has_class_weights:
            raise NotApplicable("the loss weights its classes")

    def apply(self, run: Run, option: Option) -> None:
        seen = LogitsSeen()
        with seen:
            first_loss(run)
        _check(seen)
        if option == "loss":
            run.compute_loss = fuse_loss(run.compute_loss)
            return
        if seen.weight is None:
            raise NotApplicable("the logits are not the output of a linear layer alone")
        if others := seen.other_readers():
            raise NotApplicable(f"the logits are read by {', '.join(sorted(others))} too, so they are needed whole")
        run.compute_loss = fuse_loss(run.compute_loss, seen.weight)


# Smaller logits stay in cache from one kernel to the next, and all that would be saved is spent in Python.
_LEAST_BYTES = 1 << 20


def _check(seen: LogitsSeen) -> None:
    if len(seen.losses) != 1:
        raise NotApplicable(f"the loss calls cross_entropy {len(seen.losses)} times; once is needed")
    logits, target, terms = seen.losses[0]
    if (size := logits.numel() * logits.element_size()) < _LEAST_BYTES:
        raise NotApplicable(f"the logits are {size:,} bytes, which cross no memory worth saving")
    if target.is_floating_point():
        raise NotApplicable("the targets are probabilities, not class indices")
    if terms.get("weight") is not None:
        raise NotApplicable("the loss weights its classes")
    if terms.get("reduction", "mean") not in ("mean", "sum"):
        raise NotApplicable(f'the loss has reduction="{terms["reduction"]}"; "mean" or "sum" is needed')
