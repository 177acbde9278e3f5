"""Fewer bits per number where they are enough: tf32, bf16 or fp16 in matrix products, fp32 for weights and sums.

Physically: a multiplier for 8-bit mantissas is a quarter of the silicon of one for 24 bits, and half the bytes travel.
Measured on a 2-core AVX-512 machine: 171 GFLOP/s in fp32, 402 in bf16. It wins where matrix products dominate and the
processor has units for the format. It loses without them: fp16 on such a CPU runs at under 1 image/s where fp32 runs at
383; and where layers are small, the casts cost more than the products save. fp16 reaches only 65 504, so its loss is
scaled (and a scaled step waits for the GPU once). CLOSE: weights, optimizer and loss stay fp32.

Source: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740; https://docs.pytorch.org/docs/stable/amp.html
"""

from typing import final

import torch

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import ContextFactory, Run

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_UNITS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16")}


def autocast(device_type: str, dtype: torch.dtype) -> ContextFactory:
    """A maker of autocast contexts for forward and loss."""
    return lambda: torch.autocast(device_type, dtype=dtype)


def allow_tf32() -> None:
    """fp32 matrix products and convolutions may use 10-bit mantissas, for the whole process."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


@final
class Precision(Lever):
    name = "precision"
    pillar = "hardware"
    stage = Stage.STEP
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY})

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "tf32", "bf16", "fp16")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        capability = machine.compute_capability
        if option == "tf32" and (capability is None or capability < (8, 0)):
            raise NotApplicable(f"tf32 needs a GPU of compute capability 8.0; this is {_what(machine)}")
        if option == "bf16" and capability is not None and capability < (8, 0):
            raise NotApplicable(f"bf16 needs a GPU of compute capability 8.0; this is {_what(machine)}")
        if machine.device == "cpu" and not set(_CPU_UNITS.get(str(option), ())) & set(machine.instruction_sets):
            raise NotApplicable(f"{machine.cpu} has no {option} instructions, so it would be far slower than fp32")

    def apply(self, run: Run, option: Option) -> None:
        if option == "tf32":
            allow_tf32()
            return
        run.step_contexts.append(autocast(run.device.type, _DTYPES[str(option)]))
        if option == "fp16":
            run.scaler = torch.amp.GradScaler(run.device.type)


def _what(machine: Machine) -> str:
    capability = machine.compute_capability
    return "a CPU" if capability is None else f"{machine.device_name}, {capability[0]}.{capability[1]}"
