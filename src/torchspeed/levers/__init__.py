"""The registry: one line per lever. Order of application comes from each lever's ``stage``, not from here."""

from torchspeed.lever import Lever
from torchspeed.levers.data.decode import Decode
from torchspeed.levers.data.loader_workers import LoaderWorkers
from torchspeed.levers.data.pipeline import Pipeline
from torchspeed.levers.data.placement import Placement
from torchspeed.levers.data.prefetch import Prefetch
from torchspeed.levers.hardware.allocator import Allocator
from torchspeed.levers.hardware.compile import Compile
from torchspeed.levers.hardware.cuda_graphs import CudaGraphs
from torchspeed.levers.hardware.cudnn_benchmark import CudnnBenchmark
from torchspeed.levers.hardware.flush_denormals import FlushDenormals
from torchspeed.levers.hardware.precision import Precision
from torchspeed.levers.hardware.threads import Threads
from torchspeed.levers.hardware.wait_policy import WaitPolicy
from torchspeed.levers.model.activation_checkpointing import ActivationCheckpointing
from torchspeed.levers.model.attention import Attention
from torchspeed.levers.model.conv_bn_folding import ConvBnFolding
from torchspeed.levers.model.drop_cancelled_bias import DropCancelledBias
from torchspeed.levers.model.fused_loss import FusedLoss
from torchspeed.levers.model.memory_format import MemoryFormat
from torchspeed.levers.model.pool_before_activation import PoolBeforeActivation
from torchspeed.levers.optim.batch_size import BatchSize
from torchspeed.levers.optim.optimizer_impl import OptimizerImpl
from torchspeed.levers.parallel.gradient_accumulation import GradientAccumulation

REGISTRY: dict[str, Lever] = {
    lever.name: lever
    for lever in (
        ActivationCheckpointing(),
        Allocator(),
        Attention(),
        BatchSize(),
        Compile(),
        ConvBnFolding(),
        CudaGraphs(),
        CudnnBenchmark(),
        Decode(),
        DropCancelledBias(),
        FlushDenormals(),
        FusedLoss(),
        GradientAccumulation(),
        LoaderWorkers(),
        MemoryFormat(),
        OptimizerImpl(),
        Pipeline(),
        Placement(),
        PoolBeforeActivation(),
        Precision(),
        Prefetch(),
        Threads(),
        WaitPolicy(),
    )
}
