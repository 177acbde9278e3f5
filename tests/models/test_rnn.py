"""Recurrent networks, as language models and as classifiers."""

import warnings

import pytest
import torch

from torchspeed.errors import JobError
from torchspeed.models import RNN


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_a_language_model_does_not_see_the_future(kind: str) -> None:
    model = RNN(kind, vocabulary=11, width=8)
    tokens = torch.randint(11, (3, 10))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6:], after[:, 6:])


def test_a_classifier_hears_every_step() -> None:
    model = RNN("gru", features=2, classes=3, width=8)
    sequence = torch.randn(1, 5, 2, requires_grad=True)
    model(sequence)[0, 0].backward()
    assert (sequence.grad.abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize(("kind", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_parameters_follow_from_the_number_of_gates(kind: str, gates: int) -> None:
    vocabulary, width, depth = 11, 8, 3
    model = RNN(kind, vocabulary=vocabulary, width=width, depth=depth)
    layers = depth * gates * (2 * width * width + 2 * width)
    expected = vocabulary * width + layers + (width + 1) * vocabulary
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ({}, "no size"),
        ({"features": 3}, "features"),
        ({"classes": 3}, "classes"),
        ({"vocabulary": 3, "features": 3}, "vocabulary and features"),
    ],
)
def test_sizes_that_do_not_go_together_are_an_error_that_says_what_to_give(sizes: dict[str, int], found: str) -> None:
    with pytest.raises(JobError, match=rf"got {found}; give vocabulary \(language model\), features and classes"):
        RNN(**sizes)


def test_a_bidirectional_language_model_is_an_error() -> None:
    with pytest.raises(JobError, match="sees the token that it predicts"):
        RNN(vocabulary=11, bidirectional=True)


def test_an_unknown_kind_is_an_error_that_lists_the_valid_ones() -> None:
    with pytest.raises(JobError, match="kind='mamba'; valid: rnn, lstm, gru"):
        RNN("mamba", vocabulary=11)  # type: ignore[arg-type]


def test_one_layer_with_dropout_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RNN(vocabulary=11, depth=1, dropout=0.1)
