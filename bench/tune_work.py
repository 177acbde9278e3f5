"""The works of ``tune.py`` in plain PyTorch: the network, its pictures, and how they are read. The peers import it too.

The network is the one of the tutorials: three convolutions, each with ReLU and a pooling, and two linear layers
(64-128-256 channels, 81 million multiplications and additions per picture of 32×32). The pictures are CIFAR-10, read as
people read them: torchvision's dataset with ``ToTensor`` and ``Normalize``, or, where "data is free", from tensors that
are normalised beforehand. Peers have an environment without torchvision and read from an array, which costs them less.

Every batch is full: a smaller last one would make ``torch.compile`` compile again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IN_MEMORY = 12_800  # pictures; more would only take longer to normalise
CLASSES = 10


@dataclass(frozen=True)
class Work:
    """``side``: pixels to which pictures of 32×32 are resized. ``free``: the pictures are tensors in memory."""

    name: str
    batch_size: int
    side: int = 32
    free: bool = False

    def model(self) -> nn.Module:
        return Net(self.side)


WORKS = {
    work.name: work
    for work in (
        Work("cnn_64", 64),
        Work("cnn_256", 256),
        Work("cnn_64_free", 64, free=True),
        Work("cnn_256_free", 256, free=True),
        Work("tutorial", 64, side=224),
    )
}


class Net(nn.Module):
    """[N, 3, side, side] -> [N, 10]; only the first linear layer knows of ``side``."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * (side // 8) ** 2, 256),
            nn.ReLU(),
            nn.Linear(256, CLASSES),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.features(pictures))
        return scores


def adam(parameters: Iterable[Any], fused: bool | None = None) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, fused=fused)


def save_pictures(folder: Path, pictures: Tensor, labels: Tensor) -> None:
    """What ``pictures_in`` reads: uint8 [N, 32, 32, 3] and int64 [N]."""
    np.save(folder / "pictures.npy", pictures.numpy())
    np.save(folder / "labels.npy", labels.numpy())


class Pictures(Dataset[tuple[Tensor, int]]):
    """One picture at a time, as ``ToTensor`` and ``Normalize`` would give it, without the way over PIL."""

    def __init__(self, folder: Path) -> None:
        self.pictures, self.labels = _arrays(folder)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = torch.from_numpy(self.pictures[index]).permute(2, 0, 1).contiguous().float().div_(255)
        return picture.sub_(self.mean).div_(self.std), int(self.labels[index])


def in_memory(folder: Path) -> tuple[Tensor, Tensor]:
    """float32 [N, 3, 32, 32], normalised, and int64 [N]."""
    pictures, labels = _arrays(folder)
    planes = torch.from_numpy(pictures[:IN_MEMORY]).permute(0, 3, 1, 2).contiguous().float().div_(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return planes.sub_(mean).div_(std), torch.from_numpy(labels[:IN_MEMORY])


def _arrays(folder: Path) -> tuple[Any, Any]:
    return np.load(folder / "pictures.npy"), np.load(folder / "labels.npy")


def as_people_read(work: Work, folder: Path) -> Dataset[Any]:
    """torchvision's dataset and transforms, or tensors where data is free."""
    from data_work import cifar10, torchvision

    if work.free:
        return TensorDataset(*in_memory(folder))
    package = torchvision().transforms
    resize = [package.Resize((work.side, work.side))] if work.side != 32 else []
    return cifar10(folder, package.Compose([*resize, package.ToTensor(), package.Normalize(MEAN, STD)]))


def as_peers_read(work: Work, folder: Path) -> Dataset[Any]:
    """The same numbers without torchvision."""
    return TensorDataset(*in_memory(folder)) if work.free else Pictures(folder)


def flops_per_picture(work: Work) -> int:
    """Of forward and backward, counted by PyTorch; a multiplication with its addition is two."""
    from torch.utils.flop_counter import FlopCounterMode

    pictures = torch.randn(2, 3, work.side, work.side)
    with FlopCounterMode(display=False) as counter:
        work.model()(pictures).sum().backward()
    return int(counter.get_total_flops()) // len(pictures)
