"""The registry: one line per lever. Order of application comes from each lever's ``stage``, not from here."""

from torchspeed.lever import Lever
from torchspeed.levers.data.loader_workers import LoaderWorkers
from torchspeed.levers.hardware.precision import Precision
from torchspeed.levers.hardware.threads import Threads
from torchspeed.levers.hardware.wait_policy import WaitPolicy
from torchspeed.levers.model.memory_format import MemoryFormat
from torchspeed.levers.optim.optimizer_impl import OptimizerImpl
from torchspeed.levers.parallel.gradient_accumulation import GradientAccumulation

REGISTRY: dict[str, Lever] = {
    lever.name: lever
    for lever in (
        GradientAccumulation(),
        LoaderWorkers(),
        MemoryFormat(),
        OptimizerImpl(),
        Precision(),
        Threads(),
        WaitPolicy(),
    )
}
