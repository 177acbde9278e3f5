"""torchspeed: ``EXPLAIN ANALYZE`` for PyTorch training.

Everything public is here. Names are loaded when they are first used, so that ``import torchspeed`` and
``torchspeed --help`` do not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchspeed.attach.prepare import prepare
    from torchspeed.data.dataloader import DataLoader
    from torchspeed.data.sources.image_columns import ParquetImages, hugging_face
    from torchspeed.engine.build import build
    from torchspeed.engine.resolve import process_environment
    from torchspeed.engine.rundir import RunDirectory
    from torchspeed.engine.train import Result, train
    from torchspeed.facts import Facts
    from torchspeed.job import Goal, Job
    from torchspeed.lever import Guarantee, Lever, Stage
    from torchspeed.load import load_job, plan_beside
    from torchspeed.machine import Machine
    from torchspeed.measure.explain import Explanation, explain
    from torchspeed.measurement import Measurement
    from torchspeed.models import summary
    from torchspeed.plan import Plan
    from torchspeed.run import Run
    from torchspeed.tuning.batch_result import FastestBatch, LargestBatch
    from torchspeed.tuning.batch_size import fastest_batch, largest_batch
    from torchspeed.tuning.result import Tuning
    from torchspeed.tuning.tune import tune

_HOMES = {
    "DataLoader": "data.dataloader",
    "Explanation": "measure.explain",
    "Facts": "facts",
    "FastestBatch": "tuning.batch_result",
    "Goal": "job",
    "Guarantee": "lever",
    "Job": "job",
    "LargestBatch": "tuning.batch_result",
    "Lever": "lever",
    "Machine": "machine",
    "Measurement": "measurement",
    "ParquetImages": "data.sources.image_columns",
    "Plan": "plan",
    "Result": "engine.train",
    "Run": "run",
    "RunDirectory": "engine.rundir",
    "Stage": "lever",
    "Tuning": "tuning.result",
    "build": "engine.build",
    "explain": "measure.explain",
    "fastest_batch": "tuning.batch_size",
    "hugging_face": "data.sources.image_columns",
    "largest_batch": "tuning.batch_size",
    "load_job": "load",
    "plan_beside": "load",
    "prepare": "attach.prepare",
    "process_environment": "engine.resolve",
    "summary": "models",
    "train": "engine.train",
    "tune": "tuning.tune",
}

_MODULES = ("errors", "models", "optim")

__all__ = [
    "DataLoader",
    "Explanation",
    "Facts",
    "FastestBatch",
    "Goal",
    "Guarantee",
    "Job",
    "LargestBatch",
    "Lever",
    "Machine",
    "Measurement",
    "ParquetImages",
    "Plan",
    "Result",
    "Run",
    "RunDirectory",
    "Stage",
    "Tuning",
    "build",
    "explain",
    "fastest_batch",
    "hugging_face",
    "largest_batch",
    "load_job",
    "plan_beside",
    "prepare",
    "process_environment",
    "summary",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"torchspeed.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'torchspeed' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"torchspeed.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
