"""What a recorded step holds for, as far as it can be known without a GPU."""

import torch
from torch import nn

from torchspeed.levers.hardware.cuda_graphs import _describe


def test_a_recording_holds_for_the_mode_of_each_layer() -> None:
    """Dropout that was recorded must not be replayed when it has been switched off."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    modules, batch = list(model.modules()), torch.zeros(4, 2)
    training = _describe(batch, optimizer, modules)
    model[1][1].eval()
    frozen_norm = _describe(batch, optimizer, modules)
    model.eval()
    evaluating = _describe(batch, optimizer, modules)
    assert len({training, frozen_norm, evaluating}) == 3
    model.train()
    assert _describe(batch, optimizer, modules) == training
