"""``Lever``: one technique with a finite set of options, the first being "as the job is written".

A lever file reads, from top to bottom: what it changes physically, when it wins, when it loses and its source; a
plain function on raw PyTorch objects; a final class. It does no timing, no logging and no undoing: a trial is a
fresh process that is thrown away.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import ClassVar

from torchspeed.facts import Facts
from torchspeed.fingerprint import fingerprint
from torchspeed.machine import Machine
from torchspeed.plan import AS_WRITTEN, Option
from torchspeed.run import Run


class Stage(IntEnum):
    """The order in which levers are applied."""

    PROCESS = 0
    DATA = 1
    MODEL = 2
    OPTIMIZER = 3
    STEP = 4


class Guarantee(Enum):
    """What a lever leaves unchanged; ``tune`` proves it before it keeps the lever."""

    EXACT = "same bits"
    CLOSE = "same up to rounding"
    GOAL = "another training run, same goal"


class Bound(Enum):
    """What a training waits for most: the verdict of ``explain``, and what a lever can move."""

    DATA = "data"
    TRANSFER = "transfer"
    COMPUTE = "compute"
    MEMORY = "memory"
    OVERHEAD = "overhead"
    COMMUNICATION = "communication"


class Phase(Enum):
    """When a lever's gain shows: in the steps of the training, or in its evaluations."""

    STEP = "step"
    EVALUATION = "evaluation"


class Lever(ABC):
    """Subclass, declare the class variables, implement the three methods, add one line to the registry."""

    name: ClassVar[str]
    pillar: ClassVar[str]
    stage: ClassVar[Stage]
    guarantee: ClassVar[Guarantee]
    moves: ClassVar[frozenset[Bound]]
    conflicts: ClassVar[frozenset[str]] = frozenset()
    phase: ClassVar[Phase] = Phase.STEP
    usual_gain: ClassVar[float] = 1.05  # where it wins: what promises most is tried first

    @property
    def fingerprint(self) -> str:
        """A digest of the lever's code: what was measured of another version need not hold."""
        return fingerprint(type(self))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(self.name)

    @abstractmethod
    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        """All that may be asked for here, ``AS_WRITTEN`` first."""

    @abstractmethod
    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        """Raise ``NotApplicable`` with the sentence why this option does not apply."""

    @abstractmethod
    def apply(self, run: Run, option: Option) -> None:
        """Change the live run. Never called with ``AS_WRITTEN``. ``NotApplicable`` if it turns out that it cannot."""


class ProcessLever(Lever):
    """A lever that acts on a process before PyTorch is loaded: threads, allocator, huge pages.

    ``apply`` raises NotApplicable where this process was not started with the variables and cannot have them any more.
    """

    stage = Stage.PROCESS

    @abstractmethod
    def environ(self, option: Option) -> Mapping[str, str]:
        """Variables of the environment that the process must be started with."""


__all__ = ["AS_WRITTEN", "Bound", "Guarantee", "Lever", "Option", "Phase", "ProcessLever", "Stage"]
