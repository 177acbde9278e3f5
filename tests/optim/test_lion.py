"""Lion's two implementations are one, and it refuses gradients that have no sign."""

import pytest
import torch
from torch import nn

from torchspeed.optim import Lion


def test_foreach_and_the_loop_give_the_same_bits(make_bowl):
    ends = []
    for foreach in (True, False):
        bowl = make_bowl(dtype=torch.float32)
        ends.append(bowl.descend(Lion(bowl.parameters(), 1e-2, weight_decay=0.1, foreach=foreach), 200))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_every_weight_moves_by_exactly_the_learning_rate(make_bowl):
    bowl = make_bowl()
    for weight, start in zip(bowl.descend(Lion(bowl.parameters(), 0.125), 1), bowl.starts, strict=True):
        torch.testing.assert_close((weight - torch.as_tensor(start)).abs(), torch.full_like(weight, 0.125))


def test_maximize_climbs(make_bowl):
    down, up = make_bowl(), make_bowl()
    fell = down.descend(Lion(down.parameters(), 0.1), 1)
    rose = up.descend(Lion(up.parameters(), 0.1, maximize=True), 1)
    for a, b, start in zip(fell, rose, up.starts, strict=True):
        torch.testing.assert_close(a + b, 2 * torch.as_tensor(start))


def test_parameters_without_a_gradient_stay():
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    used.grad = torch.ones(3)
    Lion([used, unused], 0.1).step()
    assert torch.equal(unused, torch.ones(3))
    assert not torch.equal(used, torch.ones(3))


def test_a_closure_is_called_with_gradients_on():
    weight = nn.Parameter(torch.ones(3))
    optimizer = Lion([weight], 0.1)

    def closure():
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))


def test_a_sparse_gradient_is_refused_with_the_way_out():
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"sparse gradient .*sparse=False"):
        Lion(table.parameters()).step()
