"""Jobs that train in milliseconds and use everything a resume must restore: dropout, batch norm, momentum, a
schedule, random augmentation from three generators, and an uneven last batch."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import torchspeed

SAMPLES = 52


class Noisy(Dataset[tuple[Tensor, Tensor, int]]):
    """Each sample draws from Python's, NumPy's and PyTorch's generator, as augmentations do."""

    def __init__(self, samples: int = SAMPLES) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(samples, 6, generator=generator)
        self.labels = (self.inputs.sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        noise = random.random() + float(np.random.rand()) + torch.rand(6)
        return self.inputs[index] + 0.1 * noise, self.labels[index], index


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


class LogIds:
    """``step`` that appends the ids of each batch to a file, so that what a run consumed can be compared."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, labels, ids = batch
        if model.training and torch.is_grad_enabled():
            with self.path.open("a") as file:
                file.write(f"{ids.tolist()}\n")
        return nn.functional.cross_entropy(model(inputs), labels)


def noisy_job(log: Path, **changes: Any) -> torchspeed.Job:
    """A job over ``Noisy``; ids go to ``log``."""
    fields: dict[str, Any] = {
        "name": "noisy",
        "model": Net,
        "train": Noisy(),
        "valid": Noisy(20),
        "step": LogIds(log),
        "optimizer": lambda params: torch.optim.Adam(params, lr=1e-2),
        "schedule": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 11], 0.5),
        "batch_size": 8,
        "epochs": 3,
        "seed": 3,
        "clip_grad_norm": 1.0,
    }
    return torchspeed.Job(**{**fields, **changes})


def blobs_job(**changes: Any) -> torchspeed.Job:
    """A supervised job on tensors: is the sum of six numbers positive?"""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 6, generator=generator)
    labels = (inputs.sum(1) > 0).long()
    fields: dict[str, Any] = {
        "name": "blobs",
        "model": lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)),
        "train": (inputs, labels),
        "valid": (inputs[:100], labels[:100]),
        "loss": nn.CrossEntropyLoss(),
        "optimizer": lambda params: torch.optim.Adam(params, lr=1e-2),
        "metric": "accuracy",
        "goal": torchspeed.Goal("accuracy", at_least=0.9),
        "batch_size": 32,
        "epochs": 6,
    }
    return torchspeed.Job(**{**fields, **changes})
