"""Parts of a step by events: times are those of the GPU's own queue, and nothing waits for it."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import tiny
import torchspeed
from torchspeed.engine.build import build
from torchspeed.machine import Machine
from torchspeed.measure.clock import Marks
from torchspeed.measure.modules import time_modules
from torchspeed.measure.parts import Parts, measure_parts
from torchspeed.plan import Plan

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


class Products(nn.Module):
    """Work for the GPU that takes far longer than to order it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4096) * 0.5)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        square = self.weight
        for _ in range(4):
            square = square @ self.weight
        return self.head(x) + square.mean()  # type: ignore[no-any-return]


class Slow(Dataset[Any]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.002)
        return torch.full((6,), float(index)), index % 2


def measured(**changes: Any) -> Parts:
    job = tiny.blobs_job(**{"model": Products, **changes})
    return measure_parts(build(job, Plan(), Machine.detect("cuda")), steps=16)


def test_a_mark_waits_for_nothing() -> None:
    device = torch.device("cuda")
    marks, matrix = Marks(device), torch.randn(8192, 8192, device=device)
    marks.start()
    began = time.perf_counter()
    for _ in range(10):
        matrix @ matrix
        marks("product")
    ordered = time.perf_counter() - began
    seconds = [seconds for _, seconds in marks.read()]
    assert len(seconds) == 10
    assert sum(seconds) > 3 * ordered


def test_parts_add_up_to_the_step() -> None:
    parts = measured()
    assert parts.unmarked is not None
    assert sum(parts.seconds.values()) == pytest.approx(parts.unmarked.median, rel=0.05)
    assert parts.seconds["backward"] > parts.seconds["forward"]


def test_a_gpu_that_idles_for_want_of_a_batch_waits_for_data() -> None:
    parts = measured(train=Slow(), batch_size=16, model=lambda: nn.Linear(6, 2))
    assert parts.shares["data"] > 0.8


def test_modules_are_timed_in_the_queue_too() -> None:
    run = build(tiny.blobs_job(model=Products), Plan(), Machine.detect("cuda"))
    own, head = time_modules(run, seconds=0.5)
    assert own.backward > own.forward > 5 * head.forward


def test_an_explanation_of_a_gpu_holds_together() -> None:
    found = torchspeed.explain(tiny.blobs_job(), device="cuda", steps=10)
    assert found.limits.host_to_device
    assert found.parts.seconds["transfer"] > 0
    assert found.least["transfer"] > 0
