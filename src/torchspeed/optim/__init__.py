"""The optim pillar: optimizers and learning-rate schedules, by name and as plain classes and factories.

A job names what it wants, ``optimizer("muon", learning_rate=0.02)`` and ``schedule("cosine", steps=5000)``;
both give small frozen values that can be compared, printed, pickled and called. Nothing here runs a training
step.
"""

from torchspeed.optim.inverse_time import InverseTime
from torchspeed.optim.lion import Lion
from torchspeed.optim.muon import Muon
from torchspeed.optim.newton_schulz import newton_schulz
from torchspeed.optim.optimizers import OPTIMIZERS, OptimizerFactory, optimizer
from torchspeed.optim.schedules import SCHEDULES, ScheduleFactory, schedule
from torchspeed.optim.stable_decay import StableDecay
from torchspeed.optim.warmup import WarmUp, advance

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "InverseTime",
    "Lion",
    "Muon",
    "OptimizerFactory",
    "ScheduleFactory",
    "StableDecay",
    "WarmUp",
    "advance",
    "newton_schulz",
    "optimizer",
    "schedule",
]
