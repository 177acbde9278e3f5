"""Jobs in files, as users write them, so that the file and line that an advice names are really looked up."""

import dataclasses
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from torchspeed import load_job
from torchspeed.engine.build import build
from torchspeed.machine import Machine
from torchspeed.measure.advice import Advice, Subject, advise
from torchspeed.plan import Plan

HEAD = """
import torch, torchspeed
from torch import nn
from torch.nn import functional as F

pictures = torch.randn(48, 3, 16, 16, generator=torch.Generator().manual_seed(0))
labels = torch.arange(48) % 4
adam = lambda params: torch.optim.Adam(params, lr=1e-3)
"""
JOB = """
def job():
    return torchspeed.Job(
        model=Net, train=(pictures[:32], labels[:32]), valid=(pictures[32:], labels[32:]),
        loss=nn.CrossEntropyLoss(), optimizer=adam, batch_size=16,
    )
"""
Advised = Callable[..., list[Advice]]


@pytest.fixture
def subject_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    """The subject of a file of this text, ``job.py`` in the current directory."""
    monkeypatch.chdir(tmp_path)

    def make(text: str, **fields: object) -> Subject:
        text = HEAD + textwrap.dedent(text)
        (tmp_path / "job.py").write_text(text if "def job(" in text else text + JOB)
        job, machine = load_job("job.py"), Machine.detect("cpu")
        subject = Subject(job, build(job, Plan(), machine), machine, {}, {})
        return dataclasses.replace(subject, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def advised(subject_of: Callable[..., Subject]) -> Advised:
    """All that is advised on such a file; whatever cannot be had fails the test."""

    def advise_on(text: str, name: str, **fields: object) -> list[Advice]:
        advice, notes = advise(subject_of(text, **fields))
        assert notes == ()
        return [each for each in advice if each.name == name]

    return advise_on


@pytest.fixture
def marked(tmp_path: Path) -> Callable[[], list[str]]:
    """ "job.py:31" for the lines of the file that end in ``# here``."""

    def lines() -> list[str]:
        text = (tmp_path / "job.py").read_text().splitlines()
        return [f"job.py:{number}" for number, line in enumerate(text, 1) if line.endswith("# here")]

    return lines
