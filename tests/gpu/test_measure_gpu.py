"""Limits and work on a GPU: its formats, its copies, its own kernels for recurrent layers, its generator."""

from pathlib import Path

import pytest
import torch
from torch import nn

import torchspeed
from torchspeed.engine.build import build
from torchspeed.machine import Machine
from torchspeed.measure.limits import measured_limits
from torchspeed.measure.work import count_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


def test_a_gpu_has_more_limits_than_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = Machine.detect("cuda")
    before = torch.backends.cuda.matmul.fp32_precision
    limits = measured_limits(machine)
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert limits.host_to_device is not None
    assert 1e8 < limits.host_to_device < limits.memory_bandwidth
    assert limits.rate("float16") > limits.rate("float32")
    if (machine.compute_capability or (0, 0)) >= (8, 0):
        assert limits.rate("bfloat16") > limits.rate("tf32") > limits.rate("float32")
    assert measured_limits(machine) == limits


def test_recurrent_layers_and_dropout_are_counted_without_a_trace() -> None:
    steps, batch, inputs, hidden = 5, 4, 8, 16

    def net() -> nn.Module:
        return nn.LSTM(inputs, hidden, num_layers=2, batch_first=True, dropout=0.5)

    job = torchspeed.Job(
        name="lstm",
        model=net,
        train=(torch.randn(batch, steps, inputs),),
        step=lambda model, batch: model(batch[0])[0].sum(),
        optimizer=torch.optim.Adam,
        batch_size=batch,
    )
    run = build(job, torchspeed.Plan(), Machine.detect("cuda"))
    weights = [parameter.clone() for parameter in run.model.parameters()]
    generator = torch.cuda.get_rng_state()
    work = count_step(run, run.loader.batch(0, 0))
    assert work.forward.total_flops == 2 * steps * batch * 4 * hidden * (inputs + hidden + hidden + hidden)
    assert work.backward.total_flops == 2 * work.forward.total_flops
    assert torch.equal(torch.cuda.get_rng_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(weights, run.model.parameters(), strict=True))
