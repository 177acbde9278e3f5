"""The decoder-only transformer."""

import math

import pytest
import torch
from torch.nn import functional as F

from torchspeed.errors import JobError
from torchspeed.models import Transformer


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_future_tokens_cannot_change_earlier_logits(positions: str) -> None:
    model = Transformer(11, context=16, width=16, depth=2, heads=2, positions=positions)
    tokens = torch.randint(11, (3, 16))
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 11
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 9:], after[:, 9:], atol=1e-3)
    torch.testing.assert_close(model(tokens[:, :9]), before[:, :9], rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_order_of_earlier_tokens_matters(positions: str) -> None:
    model = Transformer(11, context=16, width=16, depth=1, heads=2, positions=positions)
    # Weights of 0.02 leave every attention nearly uniform, and then a turn of q and k is hardly seen.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    a, b = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[2, 1, 3]]))
    assert (a[0, -1] - b[0, -1]).abs().max() > 1e-2


def test_rotary_attention_depends_on_distance_alone() -> None:
    model = Transformer(11, context=32, width=16, depth=1, heads=2, positions="rotary")
    attention, rotation = model.blocks[0].attention, model.rotation
    torch.nn.init.normal_(attention.qkv.weight)
    x = torch.randn(2, 8, 16)
    torch.testing.assert_close(attention(x, rotation[:, :8]), attention(x, rotation[:, 20:28]), rtol=1e-4, atol=1e-5)


def test_gpt2_has_its_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = Transformer(50_257, context=1024, width=768, depth=12, heads=12)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_parameters_follow_the_formula(bias: bool, tied: bool, positions: str) -> None:
    vocabulary, context, width, depth = 11, 8, 12, 3
    model = Transformer(
        vocabulary,
        context=context,
        width=width,
        depth=depth,
        heads=2,
        positions=positions,
        tied_embeddings=tied,
        bias=bias,
    )
    embeddings = vocabulary * width * (1 if tied else 2) + (context * width if positions == "learned" else 0)
    block = 12 * width**2 + (13 if bias else 2) * width
    norm = (2 if bias else 1) * width
    assert sum(parameter.numel() for parameter in model.parameters()) == embeddings + depth * block + norm


def test_weights_start_as_in_gpt2() -> None:
    depth = 8
    model = Transformer(256, context=64, width=128, depth=depth, heads=2)
    for name, parameter in model.named_parameters():
        if name.endswith("out.weight"):
            assert parameter.std().item() == pytest.approx(0.02 / math.sqrt(2 * depth), rel=0.05), name
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        elif "norm.weight" in name:
            assert (parameter == 1).all(), name
        else:
            assert (parameter == 0).all(), name


def test_a_new_model_is_as_unsure_as_chance() -> None:
    model = Transformer(64, context=16, width=64, depth=2, heads=2)
    tokens = torch.randint(64, (8, 17))
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(64), rel=0.05)


def test_a_few_steps_learn_a_sequence() -> None:
    model = Transformer(11, context=16, width=32, depth=2, heads=2, dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start = torch.randint(11, (16, 1))
    tokens = (start + 3 * torch.arange(17)) % 11
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_sequence_longer_than_the_context_is_an_error_that_says_what_to_do() -> None:
    model = Transformer(11, context=8, width=8, depth=1, heads=2)
    with pytest.raises(JobError, match=r"sequence of 9 tokens, but context=8; .* context=9 or more"):
        model(torch.zeros(1, 9, dtype=torch.long))


def test_heads_must_share_out_the_width() -> None:
    with pytest.raises(JobError, match="width=10 is no multiple of heads=4"):
        Transformer(width=10, heads=4)
    with pytest.raises(JobError, match="gives 3 per head; make it even, or set positions='learned'"):
        Transformer(width=12, heads=4, positions="rotary")
