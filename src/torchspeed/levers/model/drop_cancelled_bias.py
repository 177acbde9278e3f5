"""A bias that the next layer takes away again is neither added nor trained.

Physically: batch norm subtracts the mean of each channel over the batch, and with it whatever constant was added to
the channel. The bias before it changes no output; its gradient is a sum over the whole activation whose result is
zero but for rounding. It wins one read of the activation's gradient per layer, and an optimizer like Adam no longer
divides that rounding noise by its own size, which walks the bias about at the full learning rate. It never loses
speed; it does not apply where the norm uses its running statistics in training, for then the bias does act. CLOSE: the
bias is put to zero and the running mean moved by it, so evaluation, and the weights saved for the class as written,
give the same outputs.

Source: Ioffe & Szegedy, "Batch Normalization", arXiv:1502.03167, section 3.2; the performance guide of PyTorch,
https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html, "Disable bias for convolutions directly
followed by a batch norm".
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.models.norm_pairs import Pair, norm_pairs
from torchspeed.models.rewrite import is_as_written, set_forward
from torchspeed.run import Run


def drop_cancelled_biases(model: nn.Module, pairs: Sequence[Pair]) -> list[str]:
    """Names of the layers of ``pairs`` in ``model`` that go without their bias from now on, in place.

    The parameter stays, at zero and with ``requires_grad=False``; state that is loaded later is treated alike.
    """
    uses = [id(p) for module in model.modules() for p in module._parameters.values() if p is not None]
    dropped = []
    for pair in pairs:
        layer, norm = model.get_submodule(pair.layer), model.get_submodule(pair.norm)
        bias = layer._parameters.get("bias")
        if bias is None or not is_as_written(layer) or not norm.training or uses.count(id(bias)) > 1:
            continue
        bias.requires_grad_(False)
        bias.grad = None
        set_forward(layer, _linear_without_bias if isinstance(layer, nn.Linear) else _convolution_without_bias)
        dropped.append(pair)
    if dropped:
        settle = partial(_to_running_mean, tuple(dropped))
        settle(model)
        model.register_load_state_dict_post_hook(settle)  # type: ignore[no-untyped-call]
    return [pair.layer for pair in dropped]


@torch.no_grad()
def _to_running_mean(pairs: Sequence[Pair], model: nn.Module, *_: Any) -> None:
    for pair in pairs:
        bias = model.get_submodule(pair.layer).bias
        mean = model.get_submodule(pair.norm).running_mean
        assert isinstance(bias, Tensor)
        if isinstance(mean, Tensor):
            mean.sub_(bias)
        bias.zero_()


def _convolution_without_bias(self: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Tensor) -> Tensor:
    output: Tensor = self._conv_forward(input, self.weight, None)
    return output


def _linear_without_bias(self: nn.Linear, input: Tensor) -> Tensor:
    return F.linear(input, self.weight)


@final
class DropCancelledBias(Lever):
    name = "drop_cancelled_bias"
    pillar = "model"
    stage = Stage.MODEL
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY, Bound.OVERHEAD})
    usual_gain = 1.02

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "on")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if not facts.has_batch_norm:
            raise NotApplicable("the model has no batch norm")

    def apply(self, run: Run, option: Option) -> None:
        if not drop_cancelled_biases(run.model, norm_pairs(run)):
            raise NotApplicable("no layer with a bias of its own is read by a batch norm alone")
