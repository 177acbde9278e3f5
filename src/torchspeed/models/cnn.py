"""A plain convolutional network: convolution, norm, activation, pool, repeated.

The baseline of image work: no branch, so each activation is read once, by the next layer. Each stage halves
the picture's sides and doubles the channels (up to eight times the first, as VGG does: Simonyan & Zisserman,
arXiv:1409.1556), so a stage costs as much arithmetic as the one before. The first stage has few input channels:
it costs less, yet it holds the most memory. A mean over what is left of the picture feeds one linear layer,
hence any input size is fine (Lin et al., "Network in network", arXiv:1312.4400, section 3.2).
"""

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from torchspeed.models import _arguments

Norm = Literal["batch", "group"]


class CNN(nn.Module):
    """``depth`` stages of 3×3 convolution, norm, ReLU and 2×2 max pool.

    Stage ``i``, from 0, has ``width * min(2**i, 8)`` channels.

    forward: images float [N, in_channels, H, W], H and W at least 1, to logits [N, classes].

    ``norm``: ``"batch"`` takes its statistics over the batch and keeps running ones for evaluation; ``"group"``
    takes them over a sample, so a logit depends on its own image alone, and training and evaluation agree.
    ``dropout`` acts before the last layer. Raises ``JobError`` for an argument out of range.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        *,
        width: int = 64,
        depth: int = 3,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _arguments.positive("CNN", in_channels=in_channels, classes=classes, width=width, depth=depth)
        _arguments.probability("CNN", dropout=dropout)
        _arguments.choice("CNN", ("batch", "group"), norm=norm)
        channels = [in_channels, *(width * min(2**i, 8) for i in range(depth))]
        self.stages = nn.Sequential(*(_stage(c_in, c_out, norm) for c_in, c_out in pairwise(channels)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(images)
        logits: Tensor = self.head(self.dropout(features.mean(dim=(-2, -1))))
        return logits


def _stage(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    # No bias: the norm subtracts the mean again.
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(
        convolution,
        nn.BatchNorm2d(out_channels) if norm == "batch" else nn.GroupNorm(math.gcd(out_channels, 8), out_channels),
        nn.ReLU(),
        # Rounding up keeps the border of an odd size, and a picture of one pixel stays one pixel.
        nn.MaxPool2d(2, ceil_mode=True),
    )
