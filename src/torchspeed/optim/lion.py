"""Lion: step by the sign of an interpolated momentum.

Every weight moves by exactly the learning rate, so the direction costs one sign per weight and the state is
one momentum instead of Adam's two moments: half the optimizer memory and traffic. Because a sign vector is
much longer than a normalised Adam step, its learning rate is three to ten times smaller than Adam's, and its
weight decay that much larger. It wins at large batches, where the sign is reliable, and loses at small, noisy
ones.

Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023 (arXiv 2302.06675), algorithm 2.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from torchspeed.optim.dense import with_gradient


class Lion(Optimizer):
    """``c = β₁m + (1-β₁)g;  θ ← θ - lr·(sign(c) + λθ);  m ← β₂m + (1-β₂)g``.

    ``weight_decay`` (λ) is decoupled. ``foreach``: one call for all tensors of a group (the default), or a
    loop over them when False; the results are the same bits. Raises ``ValueError`` for values out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr is {lr}; it must be at least 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}; each must lie in [0, 1)")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay is {weight_decay}; it must be at least 0")
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what ``closure`` returns, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params, grads = with_gradient(group, "Lion")
            for param in params:
                if "exp_avg" not in self.state[param]:
                    self.state[param]["exp_avg"] = torch.zeros_like(param)
            momenta = [self.state[param]["exp_avg"] for param in params]
            batches = _one_by_one if group["foreach"] is False else _all_at_once
            for batch in batches(params, grads, momenta):
                _step(*batch, group)
        return loss


_Batch = tuple[list[Tensor], list[Tensor], list[Tensor]]


def _all_at_once(params: list[Tensor], grads: list[Tensor], momenta: list[Tensor]) -> list[_Batch]:
    return [(params, grads, momenta)] if params else []


def _one_by_one(params: list[Tensor], grads: list[Tensor], momenta: list[Tensor]) -> list[_Batch]:
    return [([p], [g], [m]) for p, g, m in zip(params, grads, momenta, strict=True)]


def _step(params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], group: dict[str, Any]) -> None:
    lr, (beta1, beta2) = group["lr"], group["betas"]
    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    directions = torch._foreach_mul(momenta, beta1)
    torch._foreach_add_(directions, grads, alpha=1 - beta1)
    torch._foreach_sign_(directions)
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
    torch._foreach_add_(params, directions, alpha=-lr)
    torch._foreach_mul_(momenta, beta2)
    torch._foreach_add_(momenta, grads, alpha=1 - beta2)
