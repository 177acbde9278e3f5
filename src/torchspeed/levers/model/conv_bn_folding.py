"""A batch norm in evaluation is a scale and a shift: the layer before it can do both.

Physically: with fixed statistics the norm is ``y * s + t`` per channel, and so is the layer's own weight times ``s``
and bias times ``s`` plus ``t``; folded, the norm's read and write of the whole activation are gone. It wins where
evaluation is a good part of a training and norms a good part of evaluation: many small layers. It loses where a
validation set is a few batches, for the folding is done anew at each evaluation (once over the weights), and nothing at
all in a training step, where the statistics are those of the batch. CLOSE: the product is rounded once more.

Source: Jacob et al., "Quantization and Training of Neural Networks", arXiv:1712.05877, section 3.2;
https://docs.pytorch.org/tutorials/intermediate/fx_conv_bn_fuser.html
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Phase, Stage
from torchspeed.machine import Machine
from torchspeed.models.norm_pairs import Pair, norm_pairs
from torchspeed.models.rewrite import has_hooks
from torchspeed.run import Run


@torch.no_grad()
def fold_norms(pairs: Sequence[Pair], model: nn.Module) -> nn.Module:
    """A copy of ``model``, in evaluation mode, whose ``pairs`` are one layer each.

    All other tensors are shared with ``model``: the copy costs the folded weights, and is good until they change.
    """
    tensors = (*model.parameters(), *model.buffers())
    folded = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for pair in pairs:
        layer: Any = folded.get_submodule(pair.layer)
        norm: Any = folded.get_submodule(pair.norm)
        fuse: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        layer.weight, layer.bias = fuse(layer.weight, layer.bias, *statistics)
        layer.__dict__.pop("forward", None)  # the folded layer has a bias, whatever it did without
        parent, _, name = pair.norm.rpartition(".")
        setattr(folded.get_submodule(parent), name, nn.Identity())
    return folded


def foldable(model: nn.Module, pairs: Sequence[Pair]) -> list[Pair]:
    """Those of ``pairs`` whose norm keeps running statistics, whose layer holds its weight as a plain parameter, and at
    which no hook looks."""

    def can(pair: Pair) -> bool:
        layer, norm = model.get_submodule(pair.layer), model.get_submodule(pair.norm)
        if has_hooks(layer) or has_hooks(norm):
            return False
        return getattr(norm, "running_mean", None) is not None and "weight" in layer._parameters

    return [pair for pair in pairs if can(pair)]


@final
class ConvBnFolding(Lever):
    name = "conv_bn_folding"
    pillar = "model"
    stage = Stage.MODEL
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY, Bound.OVERHEAD})
    usual_gain = 1.05
    phase = Phase.EVALUATION

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "on")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if not facts.has_batch_norm:
            raise NotApplicable("the model has no batch norm")

    def apply(self, run: Run, option: Option) -> None:
        if not run.holds_loop:
            raise NotApplicable("inside a loop of your own, evaluation is yours too")
        if run.valid is None:
            raise NotApplicable("there is no validation set, so nothing is evaluated")
        pairs = foldable(run.model, norm_pairs(run))
        if not pairs:
            raise NotApplicable("no convolution or linear layer is read by a batch norm alone")
        try:
            fold_norms(pairs, run.model)
        except Exception as error:
            raise NotApplicable(f"the model cannot be copied: {type(error).__name__}: {error}") from error
        run.evaluation_wrappers.append(partial(fold_norms, pairs))
