"""The network of the CIFAR-10 speed records: few layers, whitened input, nothing in it that is slow.

Three things make it learn fast. The first convolution is not trained: its filters are the principal components of
the training images' patches, scaled to unit variance (``whiten``), so that the trained layers see uncorrelated
inputs from the first step, and the gradient need not go back to the full-size picture. The filters after it start
as the identity plus noise, so that signal and gradient pass through all of them at once. And nothing is scaled
twice: norms have a bias but no gain, and a pool stands before its norm, so that the norm reads a quarter of it.

What is left is almost all 3×3 convolution, which is what a processor does at the highest fraction of its peak; most
of the work is in the four with 256 channels, and the channel counts are multiples of the vector length.

Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv:2404.00498, section 3 (whitening after
Page, "How to Train Your ResNet", 2018; identity start: section 3.3).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchspeed.errors import DataError
from torchspeed.models import _arguments

_IMAGES_AT_A_TIME = 256


class SpeedNet(nn.Module):
    """Whitening stem, one stage of two 3×3 convolutions for each of ``widths``, maximum over the picture, linear head.

    forward: images float [N, in_channels, H, W] to logits [N, classes]. A stage halves the sides once, so H and W are
    at least ``2**len(widths) + whitening_kernel - 1``: 9 with the defaults.

    ``whitening_kernel``: side of the patches that the stem decorrelates. Until ``whiten`` is called the stem is a
    random projection. ``train_stem_bias``: whether the stem's bias is trained (the stem's filters never are); it
    costs a pass of gradients back through the first trained convolution. Raises ``JobError`` for sizes below 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        *,
        widths: tuple[int, ...] = (64, 256, 256),
        whitening_kernel: int = 2,
        train_stem_bias: bool = True,
    ) -> None:
        super().__init__()
        _arguments.positive(
            "SpeedNet",
            in_channels=in_channels,
            classes=classes,
            whitening_kernel=whitening_kernel,
            stages=len(widths),
            **{f"width{i}": width for i, width in enumerate(widths)},
        )
        components = in_channels * whitening_kernel**2
        self.stem = nn.Conv2d(in_channels, 2 * components, whitening_kernel)
        self.stem.weight.requires_grad_(False)
        assert self.stem.bias is not None
        nn.init.zeros_(self.stem.bias).requires_grad_(train_stem_bias)
        channels = (2 * components, *widths)
        self.stages = nn.Sequential(*(_Stage(c_in, c_out) for c_in, c_out in pairwise(channels)))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        # Small at first: the loss starts at that of a guess, and what the features learn is not undone by the head.
        nn.init.normal_(self.head.weight, std=1 / widths[-1])

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(F.gelu(self.stem(images)))
        logits: Tensor = self.head(features.amax(dim=(-2, -1)))
        return logits


@torch.no_grad()
def whiten(model: SpeedNet, images: Tensor, *, eps: float = 5e-4) -> None:
    """Set the stem's filters to the whitening of ``images``: float [N, C, H, W], normalised as for training.

    The first half of the stem's outputs then has the unit matrix as second moment over all patches of ``images``;
    the second half is its negative, so that the activation loses neither sign. ``eps`` is added to the variances:
    it keeps the components that are little but noise (in JPEG pictures, fine detail of colour) from being blown up.
    Some thousand images are enough. Raises ``DataError`` for other shapes than the model takes.
    """
    weight = model.stem.weight
    _, channels, kernel, _ = weight.shape
    if images.dim() != 4 or images.size(1) != channels or min(images.shape[2:]) < kernel or not len(images):
        raise DataError(
            f"images for whitening have shape {list(images.shape)}; "
            f"expected [N, {channels}, H, W] with N at least 1 and sides of at least {kernel}"
        )
    size = channels * kernel**2
    moment = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    patches = 0
    for chunk in torch.split(images, _IMAGES_AT_A_TIME):
        columns = F.unfold(chunk.float(), kernel).transpose(1, 2).reshape(-1, size).double()
        moment += columns.T @ columns
        patches += len(columns)
    variances, components = torch.linalg.eigh(moment / patches)
    filters = components.T / (variances.clamp_min(0) + eps).sqrt()[:, None]
    weight.copy_(torch.cat((filters, -filters)).view_as(weight))


class _Stage(nn.Module):
    """Convolution, pool, norm, activation; convolution, norm, activation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels)
        self.norm1 = _norm(out_channels)
        self.conv2 = _convolution(out_channels, out_channels)
        self.norm2 = _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:in_channels])
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    norm.weight.requires_grad_(False)
    return norm
