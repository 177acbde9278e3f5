"""A decoder-only transformer (Vaswani et al., arXiv:1706.03762) in the form of GPT-2 (Radford et al., "Language
models are unsupervised multitask learners", 2019): norm before each branch, GELU, one matrix for embedding and
output.

Per token a block costs 24 * width**2 FLOPs in its matrices and 4 * T * width in attention over T tokens, so
attention is the smaller part until T exceeds 6 * width. Written as a softmax of a product, it would move the
[T, T] scores through memory; ``scaled_dot_product_attention`` keeps them in cache and skips the future half.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchspeed.errors import JobError
from torchspeed.models import _arguments

Positions = Literal["learned", "rotary"]


class Transformer(nn.Module):
    """``depth`` blocks of causal self-attention and a perceptron of ``4 * width`` hidden units.

    forward: tokens int64 [B, T], T at most ``context``, to logits [B, T, vocabulary]; the logits at t depend
    on tokens up to t. Raises ``JobError`` for a longer sequence.

    ``positions``: ``"learned"`` adds a vector per position; ``"rotary"`` turns queries and keys by an angle
    that grows with the position (Su et al., arXiv:2104.09864). ``tied_embeddings``: the output layer is the
    embedding, transposed (Press & Wolf, arXiv:1608.05859), and there is one parameter for both. ``bias``: of
    linear layers and norms (never of the output layer). With learned positions, tied embeddings and biases the
    parameters are ``(vocabulary + context) * width + depth * (12 * width**2 + 13 * width) + 2 * width``.
    Raises ``JobError`` for an argument out of range, and for a width that the heads cannot share out.
    """

    def __init__(
        self,
        vocabulary: int = 256,
        *,
        context: int = 256,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        positions: Positions = "learned",
        tied_embeddings: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _arguments.positive(
            "Transformer", vocabulary=vocabulary, context=context, width=width, depth=depth, heads=heads
        )
        _arguments.probability("Transformer", dropout=dropout)
        _arguments.choice("Transformer", ("learned", "rotary"), positions=positions)
        if width % heads:
            raise JobError(f"Transformer: width={width} is no multiple of heads={heads}; change one of them")
        if positions == "rotary" and width // heads % 2:
            raise JobError(
                f"Transformer: rotary positions turn pairs, and width={width} over heads={heads} gives "
                f"{width // heads} per head; make it even, or set positions='learned'"
            )
        self.context = context
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width) if positions == "learned" else None
        self.rotation: Tensor | None
        rotation = _rotation(context, width // heads) if positions == "rotary" else None
        self.register_buffer("rotation", rotation, persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=bias)
        # Tied means that there is no second matrix: a parameter under two names is stored and sharded twice.
        self.head = None if tied_embeddings else nn.Linear(width, vocabulary, bias=False)
        self._initialise(depth)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.context:
            raise JobError(
                f"Transformer: a sequence of {length} tokens, but context={self.context}; "
                f"cut the sequences, or build the model with context={length} or more"
            )
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position.weight[:length]
        x = self.dropout(x)
        rotation = None if self.rotation is None else self.rotation[:, :length]
        for block in self.blocks:
            x = block(x, rotation)
        x = self.norm(x)
        logits: Tensor = F.linear(x, self.embedding.weight) if self.head is None else self.head(x)
        return logits

    def _initialise(self, depth: int) -> None:
        """As GPT-2: N(0, 0.02²), but less by sqrt(2 * depth) in the layers that write to the residual stream, since
        2 * depth of them add up there."""
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.out.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * depth) ** 0.5)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)); float [B, T, width] to the same."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, heads, dropout, bias)
        self.mlp_norm = nn.LayerNorm(width, bias=bias)
        self.mlp = MLP(width, dropout, bias)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        result: Tensor = x + self.mlp(self.mlp_norm(x))
        return result


class Attention(nn.Module):
    """Causal self-attention. x: float [B, T, width]; rotation: float [2, T, width / heads / 2] or None."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.out_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        # [B, T, 3 * width] to three of [B, heads, T, width / heads], without a copy.
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if rotation is not None:
            q, k = _rotate(q, rotation), _rotate(k, rotation)
        rate = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        attended: Tensor = self.out_dropout(self.out(x.transpose(1, 2).flatten(2)))
        return attended


class MLP(nn.Module):
    """The perceptron of a block: width to 4 * width, GELU, and back."""

    def __init__(self, width: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width, bias=bias)
        self.activation = nn.GELU()
        self.out = nn.Linear(4 * width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.out(self.activation(self.hidden(x))))
        return result


def _rotation(context: int, size: int) -> Tensor:
    """Cosines and sines of the angle of each position and pair: float32 [2, context, size / 2]."""
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return torch.stack((angles.cos(), angles.sin()))


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns each pair (i, i + size / 2) of x: [B, heads, T, size] by its angle."""
    cos, sin = rotation.unbind(0)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).type_as(x)
