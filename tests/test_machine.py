"""The machine says what is there, and what is not in one sentence."""

import os

import pytest
import torch

from torchspeed import Machine
from torchspeed.errors import DeviceError


def test_the_cpu_is_always_there() -> None:
    machine = Machine.detect("cpu")
    assert machine.device == "cpu"
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.memory > 1 << 28
    assert dict(machine.versions)["torch"] == torch.__version__
    assert str(machine).startswith("cpu: ")


def test_detection_is_stable() -> None:
    assert Machine.detect("cpu") == Machine.detect("cpu")
    assert Machine.detect("cpu").fingerprint == Machine.detect("cpu").fingerprint


def test_an_unknown_device_lists_the_valid_ones() -> None:
    with pytest.raises(DeviceError, match="unknown device 'gpu'; valid: cuda, mps, cpu"):
        Machine.detect("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_says_why_and_what_there_is() -> None:
    with pytest.raises(DeviceError, match=r"device 'cuda' was asked for, but .*; here there is: .*cpu"):
        Machine.detect("cuda")
