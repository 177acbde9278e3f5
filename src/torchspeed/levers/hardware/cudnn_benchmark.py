"""Which of cuDNN's algorithms computes a convolution: the one its rules of thumb name, or the one that was quickest.

Physically: a convolution can be done as a matrix product, by Winograd's minimal filtering or by FFT, each in several
tilings, and which is best depends on shapes, strides, dtype and card. cuDNN guesses from the shapes; in benchmark mode
it tries all of them at the first call of each shape and keeps the quickest. It wins where the guess is poor (odd
channel numbers, large kernels, half precision). It loses where shapes change all the time, for each new one is tried
out again (some 10 to 100 ms per layer), and the algorithms that are tried want memory for their workspaces. CLOSE:
another algorithm sums in another order, and two runs may choose differently.

Source: https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html, "Enable cuDNN auto-tuner"
"""

from typing import final

import torch

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Run


def benchmark_convolutions() -> None:
    """From now on cuDNN tries its algorithms at the first call of each shape, for the whole process."""
    torch.backends.cudnn.benchmark = True


@final
class CudnnBenchmark(Lever):
    name = "cudnn_benchmark"
    pillar = "hardware"
    stage = Stage.MODEL
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY})
    usual_gain = 1.15

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "on")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if machine.device != "cuda":
            raise NotApplicable(f"cuDNN works on NVIDIA GPUs; this is {machine.device_name}")
        if not any(layer.startswith("Conv") for layer in facts.layers):
            raise NotApplicable("the model has no convolution")

    def apply(self, run: Run, option: Option) -> None:
        benchmark_convolutions()
