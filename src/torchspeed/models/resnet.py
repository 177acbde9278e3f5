"""Residual networks (He et al., "Deep residual learning for image recognition", CVPR 2016, arXiv:1512.03385).

A block adds its input to its output, so gradients reach the first layer whatever the depth. The sum has a
price: the input of a block stays in memory until its end, and norm, activation and sum each read and write
whole feature maps for a handful of operations per element, so they run at the speed of the memory.

Depth decides the layout, as published: 18 and 34 are four stages of basic blocks, 50, 101 and 152 four stages
of bottlenecks (table 1; the stride sits on the 3×3 convolution, the variant known as v1.5), and 6n + 2 is
three stages of n basic blocks (section 4.2: 20, 32, 44, 56, 110). The stem is chosen apart from it:
``"cifar"`` is one 3×3 convolution, for pictures of about 32 pixels; ``"imagenet"`` is a 7×7 convolution of
stride 2 and a pool of stride 2, for pictures of about 224. Where a shortcut changes shape it is a 1×1
convolution, in all layouts. Parameters carry the names of torchvision's models, whose published weights load
as they are.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from torchspeed.errors import JobError
from torchspeed.models import _arguments

Stem = Literal["cifar", "imagenet"]


class ResNet(nn.Module):
    """``ResNet(3, 10, depth=20, width=16)`` is the published CIFAR network;
    ``ResNet(3, 1000, depth=50, width=64, stem="imagenet")`` is ResNet-50.

    forward: images float [N, in_channels, H, W] to logits [N, classes].

    ``width``: channels of the first stage; each later stage doubles them. ``zero_init_residual``: the last
    norm of each branch starts at zero, so that a block starts as its shortcut (Goyal et al., arXiv:1706.02677,
    section 5.1). Raises ``JobError`` for a depth that no layout has, and for an argument out of range.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        *,
        depth: int = 20,
        width: int = 16,
        stem: Stem = "cifar",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        _arguments.positive("ResNet", in_channels=in_channels, classes=classes, depth=depth, width=width)
        _arguments.choice("ResNet", ("cifar", "imagenet"), stem=stem)
        block, lengths = _layout(depth)
        if stem == "imagenet":
            self.conv1 = _convolution(in_channels, width, 7, stride=2)
            self.pool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = _convolution(in_channels, width, 3)
            self.pool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        self._stages = tuple(f"layer{i + 1}" for i in range(len(lengths)))
        for i, (name, length) in enumerate(zip(self._stages, lengths, strict=True)):
            blocks: list[BasicBlock | Bottleneck] = []
            for j in range(length):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(channels, width * 2**i, stride=stride, zero_init=zero_init_residual))
                channels = width * 2**i * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(images))))
        for name in self._stages:
            x = getattr(self, name)(x)
        logits: Tensor = self.fc(x.mean(dim=(-2, -1)))
        return logits


class BasicBlock(nn.Module):
    """Two 3×3 convolutions of ``channels`` beside the shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, zero_init: bool = False) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3)
        self.bn2 = _last_norm(channels, zero_init)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.downsample(x))


class Bottleneck(nn.Module):
    """A 3×3 convolution of ``channels`` between two of 1×1; gives ``4 * channels``, beside the shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, zero_init: bool = False) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _convolution(channels, self.expansion * channels, 1)
        self.bn3 = _last_norm(self.expansion * channels, zero_init)
        self.downsample = _shortcut(in_channels, self.expansion * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + self.downsample(x))


_PUBLISHED: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def _layout(depth: int) -> tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]:
    """The kind of block, and the number of blocks in each stage."""
    if depth in _PUBLISHED:
        return _PUBLISHED[depth]
    if depth >= 8 and depth % 6 == 2:
        return BasicBlock, (depth // 6,) * 3
    raise JobError(
        f"ResNet: depth={depth}; valid: 18, 34 (four stages of basic blocks), 50, 101, 152 (of bottlenecks), "
        "and 6n + 2 (three stages of n basic blocks): 8, 14, 20, 26, 32, 38, 44, 56, ..., 110, ..."
    )


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # No bias: the norm that follows subtracts the mean again.
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _last_norm(channels: int, zero_init: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    if zero_init:
        nn.init.zeros_(norm.weight)
    return norm


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
