"""The data pipeline compiled: the same samples, in whole batches, by machine code instead of a Python call per image.

Physically: what the transforms always do alike is done once and kept; the random rest (crop, flip, colour, erase,
conversion) is one pass from bytes to the model's numbers for a whole batch, in threads that hold no interpreter lock,
with the very draws that the user's code would make. It wins wherever samples are made one by one in Python: a crop, a
flip and a normalisation of a CIFAR image cost 100 µs there and 2 µs here. It loses when there is nothing to compile,
and on a first epoch that is also the last one, since what is kept must first be computed. EXACT, proved on samples
before it is used; where torchvision resamples tensors, one level of 255 may differ, and the table says so.

Source: ``torchspeed.data.pipeline.compile``; one pass from uint8 is the idea of FFCV, Leclerc et al., "FFCV:
Accelerating training by removing data bottlenecks", CVPR 2023.
"""

from typing import final

import torch

from torchspeed.data.pipeline.compile import compile_loader
from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Loader, Run


def compile_pipeline(loader: Loader, device: torch.device) -> None:
    """From its next epoch on, ``loader`` gives batches for ``device`` from a compiled pipeline."""
    compile_loader(loader, device=device)


@final
class Pipeline(Lever):
    name = "pipeline"
    pillar = "data"
    stage = Stage.DATA
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.DATA})
    usual_gain = 4.0

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "compiled")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        """Whether there is something to compile is seen when it is tried."""

    def apply(self, run: Run, option: Option) -> None:
        compile_pipeline(run.loader, run.device)
        if run.valid is not None:
            try:
                compile_pipeline(run.valid, run.device)
            except NotApplicable as reason:
                run.skipped.append(f"pipeline=compiled leaves the validation data as written: {reason}")
