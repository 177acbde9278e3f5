"""torchvision for the tests, and image datasets as people write them.

Beside a CPU-only PyTorch the compiled operators of torchvision may be missing; the names of two of them suffice for its
Python part (transforms, datasets) to be imported.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        LIBRARY.define(f"{_name}(Tensor x) -> Tensor")

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed: pip install -e '.[dev]'")
pytest.importorskip("torchvision.transforms.v2")
v1, v2 = torchvision.transforms, torchvision.transforms.v2

__all__ = ["MEAN", "STD", "Pictures", "pictures", "torchvision", "v1", "v2"]

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def pictures(count: int = 24, height: int = 32, width: int = 32, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C]: smooth shapes with some noise, so that both edges and flat parts occur."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 5, channels), np.uint8)
    images = []
    for small in coarse:
        planes = [np.array(Image.fromarray(small[:, :, c]).resize((width, height))) for c in range(channels)]
        smooth = np.stack(planes, axis=2)
        noise = generator.integers(-20, 21, smooth.shape)
        images.append(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    return np.stack(images)


class Pictures(Dataset[tuple[Any, int]]):
    """Images in an array and a transform: the way of CIFAR10, MNIST and most datasets that people write."""

    def __init__(self, images: NDArray[np.uint8], transform: Callable[[Any], Any] | None) -> None:
        self.data, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        levels = self.data[index]
        image = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
        return image if self.transform is None else self.transform(image), index % 10
