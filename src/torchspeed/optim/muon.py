"""Muon: momentum, orthogonalised, for the matrices of a network.

The momentum of a weight matrix is dominated by a few directions; its other singular values are small, though
they matter. Setting all of them to one (``newton_schulz``) makes a step that moves every direction equally:
fewer steps to the same loss than AdamW, for about 5·3 matrix products per weight matrix and step. That is
cheap when the batch has many samples or tokens per weight, and a loss when the batch is small and the
matrices are large. A filter bank ``[out, in, kh, kw]`` is the matrix ``[out, in·kh·kw]``.

It is a method for matrices that map features to features. Vectors (biases, norms), embeddings and the output
head go to a companion, AdamW or SGD. Both live in this one optimizer, as parameter groups: one state, and a
schedule scales all of them. ``torch.optim.Muon`` (torch 2.9) has the same mathematics for 2-D parameters
alone, one matrix at a time; on those the two agree (tested), and its names of options are kept.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon); filters, and their normalisation, as in airbench94 (Jordan, arXiv
2404.00498); the scale "match_rms_adamw": Liu et al., "Muon is Scalable for LLM Training", 2025 (arXiv
2502.16982).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer, ParamsT
from torch.optim.sgd import sgd

from torchspeed.optim.dense import with_gradient
from torchspeed.optim.muon_groups import Exclude, split
from torchspeed.optim.newton_schulz import COEFFICIENTS, newton_schulz

_SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, cols: math.sqrt(max(1.0, rows / cols)),
    "match_rms_adamw": lambda rows, cols: 0.2 * math.sqrt(max(rows, cols)),
    "none": lambda rows, cols: 1.0,
}
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_COMPANIONS = ("adamw", "sgd")


class Muon(Optimizer):
    """Muon for matrices and filters, ``companion`` for everything else, in one optimizer.

    ``params``: tensors, (name, tensor) pairs, or groups. Parameters of two or more dimensions go to Muon,
    unless ``exclude`` names them: a sequence of patterns (``["embed.*", "head.*"]``, as in ``fnmatch``) or a
    predicate ``(name, parameter) -> bool``; patterns need named parameters. A group that has ``"algorithm"``
    ("muon", "adamw" or "sgd") is taken as it is, with its own ``lr`` and options.

    ``lr``, ``weight_decay`` (decoupled), ``momentum``, ``nesterov``, ``ns_*``, ``adjust_lr_fn`` ("original",
    "match_rms_adamw", "none") are Muon's; ``ns_dtype`` ("bfloat16", "float32") is the arithmetic of the
    orthogonalisation. ``normalize_filters`` rescales each filter bank to the norm √out before a step, so that
    its learning rate means the same through the run (only for layers followed by a normalisation).
    ``companion_lr`` (default: ``lr``), ``companion_momentum`` (SGD, Nesterov as ``nesterov`` says), ``betas``
    and ``companion_eps`` (AdamW) are the companion's; ``weight_decay`` holds for both. ``foreach=False``
    takes matrices one by one; otherwise those of equal shape are orthogonalised together.

    Raises ``ValueError`` for values out of range, patterns without names, or a vector in a "muon" group.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        *,
        ns_steps: int = 5,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        ns_dtype: str = "bfloat16",
        eps: float = 1e-7,
        adjust_lr_fn: str = "original",
        normalize_filters: bool = False,
        exclude: Exclude = (),
        companion: str = "adamw",
        companion_lr: float | None = None,
        companion_momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        companion_eps: float = 1e-8,
        foreach: bool | None = None,
    ) -> None:
        companion_lr = lr if companion_lr is None else companion_lr
        _at_least_0(lr=lr, weight_decay=weight_decay, companion_lr=companion_lr, companion_eps=companion_eps)
        _below_1(momentum=momentum, companion_momentum=companion_momentum, beta1=betas[0], beta2=betas[1])
        _one_of("adjust_lr_fn", adjust_lr_fn, _SCALES)
        _one_of("ns_dtype", ns_dtype, _DTYPES)
        _one_of("companion", companion, _COMPANIONS)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "ns_coefficients": ns_coefficients,
            "ns_dtype": ns_dtype,
            "eps": eps,
            "adjust_lr_fn": adjust_lr_fn,
            "normalize_filters": normalize_filters,
            "companion": companion,
            "companion_lr": companion_lr,
            "companion_momentum": companion_momentum,
            "betas": betas,
            "companion_eps": companion_eps,
            "foreach": foreach,
        }
        groups = split(params, exclude, companion, companion_lr)
        super().__init__(groups, defaults)
        for group in self.param_groups:
            _one_of("algorithm", group["algorithm"], ("muon", *_COMPANIONS))
            for param in group["params"]:
                if group["algorithm"] == "muon" and param.ndim < 2:
                    raise ValueError(
                        f"a parameter of shape {tuple(param.shape)} is in a group with algorithm 'muon', which is for "
                        "matrices and filters; give that group 'adamw' or 'sgd'"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what ``closure`` returns, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        steps = {"muon": self._muon, "adamw": self._adamw, "sgd": self._sgd}
        for group in self.param_groups:
            params, grads = with_gradient(group, "Muon")
            if params:
                steps[group["algorithm"]](group, params, grads)
        return loss

    def _muon(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        momenta = [self.state[param]["momentum_buffer"] for param in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, momenta, group["momentum"]) if group["nesterov"] else momenta
        if group["normalize_filters"]:
            for param in params:
                if param.ndim > 2:
                    param.mul_(math.sqrt(param.size(0)) / torch.linalg.vector_norm(param).clamp(min=group["eps"]))
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for members in _equal_shapes(updates, alone=group["foreach"] is False):
            stacked = torch.stack([updates[i].flatten(1) for i in members])
            directions = newton_schulz(
                stacked,
                steps=group["ns_steps"],
                coefficients=group["ns_coefficients"],
                eps=group["eps"],
                dtype=_DTYPES[group["ns_dtype"]],
            )
            scale = _SCALES[group["adjust_lr_fn"]](*stacked.shape[1:])
            for i, direction in zip(members, directions, strict=True):
                params[i].add_(direction.reshape(params[i].shape), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        for param in params:
            if "step" not in self.state[param]:
                self.state[param]["step"] = torch.zeros((), dtype=torch.float32)
                self.state[param]["exp_avg"] = torch.zeros_like(param)
                self.state[param]["exp_avg_sq"] = torch.zeros_like(param)
        adamw(
            params,
            grads,
            [self.state[param]["exp_avg"] for param in params],
            [self.state[param]["exp_avg_sq"] for param in params],
            [],
            [self.state[param]["step"] for param in params],
            foreach=group["foreach"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["companion_eps"],
            maximize=False,
        )

    def _sgd(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        momentum = group["companion_momentum"]
        momenta: list[Tensor | None] = [self.state[param].get("momentum_buffer") for param in params]
        sgd(
            params,
            grads,
            momenta,
            foreach=group["foreach"],
            weight_decay=group["weight_decay"],
            momentum=momentum,
            lr=group["lr"],
            dampening=0.0,
            nesterov=group["nesterov"] and momentum > 0,
            maximize=False,
        )
        for param, buffer in zip(params, momenta, strict=True):
            if buffer is not None:
                self.state[param]["momentum_buffer"] = buffer


def _equal_shapes(updates: Sequence[Tensor], *, alone: bool) -> list[list[int]]:
    """Positions of updates that can be stacked as matrices; each alone when asked."""
    if alone:
        return [[i] for i in range(len(updates))]
    members: dict[Any, list[int]] = defaultdict(list)
    for i, update in enumerate(updates):
        members[update.size(0), update[0].numel(), update.device].append(i)
    return list(members.values())


def _at_least_0(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must be at least 0")


def _below_1(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1)")


def _one_of(name: str, value: object, valid: Sequence[str] | dict[str, Any]) -> None:
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; it must be one of: {', '.join(valid)}")
