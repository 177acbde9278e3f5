"""A character language model: a small transformer reads text and predicts each next character.

``torchspeed train characters`` reads the sources of Python's own standard library, ``--data FILE`` any text in UTF-8.
The last tenth of the text is for validation, all of it: each of its characters but the first is predicted once.

Goal: 1.88 nats per character, a figure for the plays of Shakespeare (input.txt of github.com/karpathy/char-rnn), where
this ends at 1.52. Sources of programs repeat themselves more: there it ends at 1.11, so the goal is an easy one.
"""

import math
from functools import partial

from torch import Tensor
from torch.nn import functional as F

import torchspeed
from torchspeed import models, optim
from torchspeed.data.text import TokenWindows, Vocabulary, python_library_sources, read_text
from torchspeed.errors import DataError

CONTEXT, WIDTH, DEPTH, HEADS = 256, 192, 4, 3
LEARNING_RATE, EMBEDDING_RATE = 0.02, 5e-3
VALID_FRACTION = 0.1


def job(data: str | None = None, epochs: float = 2, batch_size: int = 8, seed: int = 0) -> torchspeed.Job:
    train, valid, vocabulary = windows(data)
    steps = math.ceil(epochs * math.ceil(len(train) / batch_size))
    return torchspeed.Job(
        name="characters",
        model=partial(
            models.Transformer,
            len(vocabulary),
            context=CONTEXT,
            width=WIDTH,
            depth=DEPTH,
            heads=HEADS,
            positions="rotary",
            bias=False,
        ),
        train=train,
        valid=valid,
        loss=nats_per_character,
        optimizer=optim.optimizer(
            "muon", learning_rate=LEARNING_RATE, companion_lr=EMBEDDING_RATE, exclude=["embedding.*"]
        ),
        schedule=optim.schedule("polynomial", steps=steps, warmup_steps=steps // 20),
        metric="loss",
        goal=torchspeed.Goal("loss", at_most=1.88),
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
    )


def windows(data: str | None) -> tuple[TokenWindows, TokenWindows, Vocabulary]:
    """(train, valid, vocabulary) of the text in the file ``data``, or of the default. Raises ``DataError``."""
    text = python_library_sources() if data is None else read_text(data)
    needed = math.ceil((CONTEXT + 1) / VALID_FRACTION)
    if len(text) < needed:
        raise DataError(
            f"{data}: {len(text):,} characters; its last tenth must fill a window, so give {needed:,} or more"
        )
    vocabulary = Vocabulary.of(text)
    tokens = vocabulary.encode(text)
    split = int(len(tokens) * (1 - VALID_FRACTION))
    train = TokenWindows(tokens[:split], CONTEXT, random=True)
    return train, TokenWindows(tokens[split:], CONTEXT, random=False), vocabulary


def nats_per_character(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of logits [B, T, vocabulary] at targets [B, T] (-100: not counted)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
