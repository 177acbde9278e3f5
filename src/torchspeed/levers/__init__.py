"""The registry: one line per lever. Order of application comes from each lever's ``stage``, not from here."""

from torchspeed.lever import Lever
from torchspeed.levers.data.decode import Decode
from torchspeed.levers.data.loader_workers import LoaderWorkers
from torchspeed.levers.data.pipeline import Pipeline
from torchspeed.levers.data.placement import Placement
from torchspeed.levers.data.prefetch import Prefetch
from torchspeed.levers.hardware.precision import Precision
from torchspeed.levers.hardware.threads import Threads
from torchspeed.levers.hardware.wait_policy import WaitPolicy
from torchspeed.levers.model.memory_format import MemoryFormat
from torchspeed.levers.optim.optimizer_impl import OptimizerImpl
from torchspeed.levers.parallel.gradient_accumulation import GradientAccumulation

REGISTRY: dict[str, Lever] = {
    lever.name: lever
    for lever in (
        Decode(),
        GradientAccumulation(),
        LoaderWorkers(),
        MemoryFormat(),
        OptimizerImpl(),
        Pipeline(),
        Placement(),
        Precision(),
        Prefetch(),
        Threads(),
        WaitPolicy(),
    )
}
