"""Fewer bits per number where they are enough: tf32, bf16, fp16 or fp8 in matrix products, fp32 for weights and sums.

Physically: a multiplier for 8-bit mantissas is a quarter of the silicon of one for 24 bits, and half the bytes travel.
Measured on a 2-core AVX-512 machine: 171 GFLOP/s in fp32, 402 in bf16. It wins where matrix products dominate and the
processor has units for the format. It loses without them: fp16 on such a CPU runs at under 1 image/s where fp32 runs at
383; and where layers are small, the casts cost more than the products save. fp16 reaches only 65 504, so its loss is
scaled (and a scaled step waits for the GPU once). fp8 has 3 bits of mantissa, so each tensor of a Linear layer is
scaled to fit; the rest runs in bf16, and only wide layers gain, best together with compile. CLOSE: weights, optimizer
and loss stay fp32.

Source: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, and "FP8 Formats for Deep Learning",
arXiv:2209.05433; https://docs.pytorch.org/docs/stable/amp.html
"""

import copy
import importlib
import types
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import nn

from torchspeed.batch import map_tensors
from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import ContextFactory, Run

_CPU_UNITS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16")}


def autocast(device_type: str, dtype: torch.dtype) -> ContextFactory:
    """A maker of autocast contexts for forward and loss."""
    return lambda: torch.autocast(device_type, dtype=dtype)


def autocast_forward(model: nn.Module, dtype: torch.dtype) -> None:
    """Let ``model`` compute in ``dtype`` whoever calls it; what it returns is fp32, as a loss outside expects it."""
    device_type = next(model.parameters()).device.type
    forward = getattr(model.forward, "__func__", None) or _without_self(model.forward)

    def in_low_precision(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        with torch.autocast(device_type, dtype=dtype):
            output = forward(self, *arguments, **options)
        return _in_fp32(output)

    model.forward = types.MethodType(in_low_precision, model)  # a method, so that a deep copy calls the copy


def to_fp8(model: nn.Module) -> int:
    """Linear layers of ``model`` whose sizes are multiples of 16 compute in fp8 from now on; returns how many.

    Weights stay the same parameters. Raises NotApplicable without torchao.
    """
    try:
        float8 = importlib.import_module("torchao.float8")
    except ImportError as error:
        raise NotApplicable("fp8 needs torchao; run: pip install 'torchspeed[fp8]'") from error
    fitting = {module for module in model.modules() if _fits_fp8(module)}
    if fitting:
        float8.convert_to_float8_training(
            model,
            module_filter_fn=lambda module, name: module in fitting,
            config=float8.Float8LinearConfig(pad_inner_dim=True),  # an uneven last batch is padded to 16
        )
    return len(fitting)


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
    usual_gain = 2.0

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "bf16", "tf32", "fp16", "fp8")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        capability = machine.compute_capability
        if option == "tf32" and (capability is None or capability < (8, 0)):
            raise NotApplicable(f"tf32 needs a GPU of compute capability 8.0; this is {_what(machine)}")
        if option == "bf16" and capability is not None and capability < (8, 0):
            raise NotApplicable(f"bf16 needs a GPU of compute capability 8.0; this is {_what(machine)}")
        if option == "fp8" and (capability is None or capability < (8, 9)):
            raise NotApplicable(f"fp8 needs a GPU of compute capability 8.9; this is {_what(machine)}")
        if option == "fp8" and "Linear" not in facts.layers:
            raise NotApplicable("fp8 is for Linear layers, and the model has none")
        if machine.device == "cpu" and not set(_CPU_UNITS.get(str(option), ())) & set(machine.instruction_sets):
            raise NotApplicable(f"{machine.cpu} has no {option} instructions, so it would be far slower than fp32")

    def apply(self, run: Run, option: Option) -> None:
        if option == "tf32":
            allow_tf32()
            return
        if option == "fp16" and not run.holds_loop:
            raise NotApplicable("fp16 needs a gradient scaler in the loop, and the loop is your own; bf16 needs none")
        if option == "fp8" and not to_fp8(run.model):
            raise NotApplicable("the model has no Linear layer with multiples of 16 features in and out")
        dtype = torch.float16 if option == "fp16" else torch.bfloat16
        if run.holds_loop:
            run.step_contexts.append(autocast(run.device.type, dtype))
        else:
            autocast_forward(run.model, dtype)
        if option == "fp16":
            run.scaler = torch.amp.GradScaler(run.device.type)


def _fits_fp8(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.in_features % 16 == 0 and module.out_features % 16 == 0


def _without_self(forward: Any) -> Any:
    return lambda self, *arguments, **options: forward(*arguments, **options)


def _in_fp32(output: Any) -> Any:
    """``output`` with its half-precision tensors in fp32; a mapping stays of its own class."""
    if isinstance(output, Mapping) and type(output) is not dict:
        changed: Any = copy.copy(output)
        for name, value in output.items():
            changed[name] = _in_fp32(value)
        return changed
    return map_tensors(output, lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t)


def _what(machine: Machine) -> str:
    capability = machine.compute_capability
    return "a CPU" if capability is None else f"{machine.device_name}, {capability[0]}.{capability[1]}"
