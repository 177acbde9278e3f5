"""Pieces cover the batch once, and their gradients add up to its own."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from torchspeed.parallel.micro_batches import split


class Pair(NamedTuple):
    a: Tensor
    b: dict[str, Any]


@pytest.mark.parametrize("samples", [1, 2, 7, 8])
@pytest.mark.parametrize("pieces", [1, 2, 3, 8, 32])
def test_pieces_cover_the_batch_once_with_shares_that_add_up(samples: int, pieces: int) -> None:
    parts = list(split((torch.arange(samples), [torch.arange(samples) * 2]), pieces))
    assert len(parts) <= pieces
    assert torch.cat([part[0] for part, _ in parts]).tolist() == list(range(samples))
    assert torch.cat([part[1][0] for part, _ in parts]).tolist() == [2 * i for i in range(samples)]
    assert sum(share for _, share in parts) == pytest.approx(1)


def test_the_structure_of_the_batch_stays() -> None:
    batch = Pair(torch.arange(4), {"mask": torch.ones(4), "scale": torch.tensor(3.0), "name": "x"})
    (first, share), _ = split(batch, 2)
    assert isinstance(first, Pair)
    assert first.b["mask"].shape == (2,)
    assert (float(first.b["scale"]), first.b["name"], share) == (3.0, "x", 0.5)


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_gradients_add_up(pieces: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    inputs, target = torch.randn(7, 4).double(), torch.randint(0, 2, (7,))
    whole = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), target), model.weight)[0]
    parts = torch.zeros_like(whole)
    for (x, y), share in split((inputs, target), pieces):
        parts += torch.autograd.grad(nn.functional.cross_entropy(model(x), y) * share, model.weight)[0]
    torch.testing.assert_close(parts, whole)
