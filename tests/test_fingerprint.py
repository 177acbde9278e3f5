"""A fingerprint follows meaning: code and data count, identity, comments and order of sets do not."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchspeed.fingerprint import fingerprint

SCALE = 2


def scaled(x: float) -> float:
    return x * SCALE


def make(body: str) -> Any:
    scope: dict[str, Any] = {"__name__": "user"}
    exec(body, scope)
    return scope["f"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        ([1, 2], (1, 2)),
        ({"a": 1}, {"a": 2}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(3), torch.tensor([0, 0, 1.0])),
        (np.arange(3), np.arange(4)),
        (lambda x: x + 1, lambda x: x + 2),
        (functools.partial(scaled, 1), functools.partial(scaled, 2)),
        (nn.CrossEntropyLoss(), nn.NLLLoss()),
        (torch.float32, torch.bfloat16),
        (Path("a"), Path("b")),
        (range(10), range(20)),
        (make("K = [1]\ndef f(): return K"), make("K = [2]\ndef f(): return K")),
        (make("def f():\n  return [i for i in range(3)]"), make("def f():\n  return [i for i in range(4)]")),
        (make("def g(): return 1\ndef f(): return g()"), make("def g(): return 2\ndef f(): return g()")),
        (make("K = 1\ndef f(): return K"), make("K = 2\ndef f(): return K")),
        (make("class f:\n  def go(self): return 1"), make("class f:\n  def go(self): return 2")),
        (make("def f(x=1): return x"), make("def f(x=2): return x")),
    ],
)
def test_what_means_something_else_differs(one: object, other: object) -> None:
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1, 2, 3}, {3, 2, 1}),
        (torch.arange(6).reshape(2, 3).t().contiguous(), torch.arange(6).reshape(2, 3).t()),
        (make("def f(x):\n  return x  # a comment"), make("def f(x):\n\n  return x")),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss()),
        (np.float32(1).item(), 1.0),
    ],
)
def test_what_means_the_same_agrees(one: object, other: object) -> None:
    assert fingerprint(one) == fingerprint(other)


def test_a_closure_counts() -> None:
    def outer(k: int) -> Any:
        return lambda x: x + k

    assert fingerprint(outer(1)) == fingerprint(outer(1))
    assert fingerprint(outer(1)) != fingerprint(outer(2))


def test_circles_end() -> None:
    circle: list[object] = [1]
    circle.append(circle)
    assert fingerprint(circle) == fingerprint(circle)


def test_a_view_that_is_many_times_its_data_is_not_copied_out() -> None:
    data = np.arange(200_000, dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(data, 100_000)  # 40 GB, if it were
    assert fingerprint(windows) == fingerprint(np.lib.stride_tricks.sliding_window_view(data.copy(), 100_000))
    assert fingerprint(windows) != fingerprint(np.lib.stride_tricks.sliding_window_view(data + 1, 100_000))
    wide = torch.zeros(1).expand(1 << 36)
    assert fingerprint(wide) != fingerprint(torch.ones(1).expand(1 << 36))
