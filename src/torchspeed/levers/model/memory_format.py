"""Where the channels of an image lie in memory: plane by plane (NCHW) or side by side (NHWC, "channels last").

Physically: convolution kernels for vector and tensor cores read all channels of a pixel at once. In NHWC they are
contiguous; in NCHW each kernel call reorders its input and output first. It wins on convolutions (1.4× on a
3-convolution CNN on AVX-512, more on tensor cores in half precision). It loses where a model keeps going back to
NCHW: flattening, reshaping, grouped convolutions with few channels. CLOSE: the sums are taken in another order.

Source: https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html
"""

from typing import final

import torch
from torch import nn

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Run


def to_channels_last(model: nn.Module) -> None:
    """Restride every 4- and 5-dimensional parameter and buffer of ``model`` in place; values do not change."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        elif tensor.ndim == 5:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last_3d)


@final
class MemoryFormat(Lever):
    name = "memory_format"
    pillar = "model"
    stage = Stage.MODEL
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY})
    usual_gain = 1.3

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "channels_last")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if not facts.layers & {"Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d"}:
            raise NotApplicable("the model has no convolution over images or volumes")

    def apply(self, run: Run, option: Option) -> None:
        to_channels_last(run.model)
