"""Levers act on the process; what a test has switched on there must not reach the next one."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from torchspeed.levers.hardware.flush_denormals import flush_denormals, flushes_denormals


@pytest.fixture(autouse=True)
def denormals_as_before() -> Iterator[None]:
    """Whoever draws numbers at random later (hypothesis does) needs the smallest of them."""
    before = flushes_denormals()
    yield
    if flushes_denormals() != before:
        flush_denormals(before)


@pytest.fixture
def captured_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are captured and differentiated as always, and then run without code being generated for them."""
    written = torch.compile
    monkeypatch.setattr(torch, "compile", lambda target, mode="default": written(target, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
