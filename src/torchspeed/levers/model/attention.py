"""Which kernel computes ``scaled_dot_product_attention``.

Physically: the scores of T queries at T keys are T² numbers per head. "math" writes them to memory, normalises them
and reads them back; "flash" and "efficient" work through them tile by tile in cache and never store them; "cudnn" is
the vendor's own tile kernel. PyTorch chooses by rules, not by measurement. Forcing one wins where the rule is wrong
for these shapes: "cudnn" often on recent cards, "math" for a few short sequences, where tiles cost more than they
save. It loses everywhere else, and "math" loses the memory of T² scores. A call that the kernel cannot take (a mask,
a head size) goes to "math". CLOSE: sums are taken in another order; with dropout, other elements are dropped, so
there it is another draw of the same distribution.

Source: Dao, "FlashAttention-2", arXiv:2307.08691; Rabe & Staats, arXiv:2112.05682;
https://docs.pytorch.org/docs/stable/generated/torch.nn.attention.sdpa_kernel.html
"""

import warnings
from typing import Any, final

from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.models.probe import first_loss
from torchspeed.models.rewrite import forward_of, set_forward
from torchspeed.run import ContextFactory, Run

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_CAPABILITIES = {"flash": (8, 0), "efficient": (5, 0), "cudnn": (8, 0)}


def attention_kernel(name: str) -> ContextFactory:
    """A maker of contexts in which attention takes the kernel ``name``, and "math" where that cannot."""
    return lambda: sdpa_kernel([KERNELS[name], SDPBackend.MATH])


def attend_with(model: nn.Module, name: str) -> None:
    """``model`` computes attention with the kernel ``name`` in every forward pass, in place."""
    written = forward_of(model)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with attention_kernel(name)():
            return written(self, *args, **kwargs)

    set_forward(model, forward)


class _Calls(TorchFunctionMode):
    """Counts calls of ``scaled_dot_product_attention``."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # What is called inside of this function is not seen; it attends so unless it is to return the weights.
        whole = func is F.multi_head_attention_forward and not kwargs.get("need_weights", True)
        self.count += func is F.scaled_dot_product_attention or whole
        return func(*args, **kwargs)


def _why_not(run: Run, name: str) -> str:
    """What PyTorch says against the kernel ``name`` for this model; nothing if it takes it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(KERNELS[name]):
                first_loss(run)
        except NotApplicable as reason:
            lines = [str(warning.message).partition("(Triggered")[0].strip() for warning in said]
            return next((line for line in lines if not line.endswith("because:")), str(reason))
    return ""


@final
class Attention(Lever):
    name = "attention"
    pillar = "model"
    stage = Stage.MODEL
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY})
    usual_gain = 1.1

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, *KERNELS)

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if machine.device == "cpu" and option not in ("flash", "math"):
            raise NotApplicable(f"the {option} kernel is for GPUs; a CPU has flash and math")
        if machine.device == "mps" and option != "math":
            raise NotApplicable(f"the {option} kernel does not exist on mps")
        needed, capability = _CAPABILITIES.get(str(option)), machine.compute_capability
        if needed is not None and capability is not None and capability < needed:
            raise NotApplicable(
                f"{option} attention needs a GPU of compute capability {needed[0]}.{needed[1]}; "
                f"this is {machine.device_name}, {capability[0]}.{capability[1]}"
            )

    def apply(self, run: Run, option: Option) -> None:
        if not run.holds_loop:
            attend_with(run.model, str(option))
            return
        with _Calls() as calls:
            first_loss(run)
        if not calls.count:
            raise NotApplicable("the model does not call scaled_dot_product_attention")
        if reason := _why_not(run, str(option)):
            raise NotApplicable(f"the {option} kernel cannot compute this model's attention: {reason}")
        run.step_contexts.append(attention_kernel(str(option)))
