"""Logits that are not computed until it is known what for.

The last linear layer and the loss are far apart: one is called in the model, the other in the job, and between them the
logits are flattened or transposed. Inside ``Fused(weight)`` the layer with that weight gives a stand-in, a tensor of
the right shape, strides and dtype without numbers. Views of it are stand-ins too, and cross entropy of one takes the
fused path. Anything else that reads it gets the real logits, computed then, so that nothing can go wrong but the gain.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from torchspeed.models.linear_cross_entropy import Terms, cross_entropy, linear_cross_entropy

_VIEWS = {
    *(Tensor.view, Tensor.reshape, Tensor.flatten, Tensor.unflatten, Tensor.squeeze, Tensor.unsqueeze),
    *(Tensor.transpose, Tensor.swapaxes, Tensor.permute, Tensor.movedim, Tensor.contiguous, Tensor.mT.__get__),  # type: ignore[attr-defined]
    *(torch.reshape, torch.flatten, torch.squeeze, torch.unsqueeze),
    *(torch.transpose, torch.swapaxes, torch.permute, torch.movedim),
}
_QUESTIONS = {
    *(Tensor.size, Tensor.dim, Tensor.stride, Tensor.numel, Tensor.is_floating_point, Tensor.is_contiguous),
    *(Tensor.shape.__get__, Tensor.ndim.__get__, Tensor.dtype.__get__, Tensor.device.__get__),  # type: ignore[attr-defined]
    *(Tensor.requires_grad.__get__, Tensor.is_leaf.__get__, Tensor.layout.__get__),  # type: ignore[attr-defined]
}


class LateLogits(Tensor):
    """``F.linear(hidden, weight, bias)`` seen through views, without its numbers."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(hidden: Tensor, weight: Tensor, bias: Tensor | None, like: Tensor | None = None) -> "LateLogits":
        """``like``: shape and strides among the logits [..., C], which lie row by row; None is all of them."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        like = torch.empty((*hidden.shape[:-1], len(weight)), device="meta") if like is None else like
        late: LateLogits = Tensor._make_wrapper_subclass(
            LateLogits, like.shape, strides=like.stride(), dtype=dtype, device=hidden.device, requires_grad=True
        )
        late.hidden, late.weight, late.bias = hidden, weight, bias
        return late

    def now(self) -> Tensor:
        """The real logits."""
        logits = F.linear(self.hidden, self.weight, self.bias).contiguous()
        with torch._C.DisableTorchFunctionSubclass():
            shape, strides = self.shape, self.stride()
        return logits.as_strided(shape, strides)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _QUESTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _VIEWS and isinstance(args[0], LateLogits):
            late, shadow = args[0], _strides_of(args[0])
            try:
                seen = func(shadow, *args[1:], **kwargs)
            except RuntimeError:
                seen = None  # what cannot be viewed says so itself, of the real logits
            # A copy of logits in another order is no view of them.
            if seen is not None and seen.untyped_storage()._cdata == shadow.untyped_storage()._cdata:
                return LateLogits.of(late.hidden, late.weight, late.bias, seen)
        if func is F.cross_entropy:
            return _cross_entropy(*args, **kwargs)
        return func(*tree_map(_real, args), **tree_map(_real, kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*tree_map(_real, args), **tree_map(_real, kwargs or {}))


class Fused(TorchFunctionMode):
    """Inside, cross entropy computes its gradient at once; with ``weight``, together with the linear layer of it."""

    def __init__(self, weight: Tensor | None) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and self.weight is not None and (args[1:2] or (kwargs.get("weight"),))[0] is self.weight:
            return _late_linear(*args, **kwargs)
        if func is F.cross_entropy:
            return _cross_entropy(*args, **kwargs)
        return func(*args, **kwargs)


class LogitsSeen(TorchFunctionMode):
    """Watches one loss being computed: which weight made the logits, and whether only the loss reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[int, Tensor] = {}
        self.made: list[Tensor] = []
        self.weight: Tensor | None = None
        self.losses: list[tuple[Tensor, Tensor, dict[str, Any]]] = []
        self.readers: dict[int, set[str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.cross_entropy:
            self._see_loss(*args, **kwargs)
        elif func not in _QUESTIONS and func not in _VIEWS:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and (storage := _storage(leaf)) in self.weights:
                    self.readers.setdefault(storage, set()).add(getattr(func, "__name__", str(func)))
        result = func(*args, **kwargs)
        if func is F.linear:
            self.made.append(result)
            self.weights[_storage(result)] = args[1] if len(args) > 1 else kwargs["weight"]
        return result

    def _see_loss(self, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> None:
        names = ("weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing")
        self.losses.append((input, target, {**dict(zip(names, args, strict=False)), **kwargs}))
        self.weight = self.weights.get(_storage(input))

    def other_readers(self) -> set[str]:
        """Names of the functions, beside the loss, that read the logits."""
        return self.readers.get(_storage(self.losses[-1][0]), set())


def _late_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> LateLogits:
    return LateLogits.of(input, weight, bias)


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    terms = Terms(ignore_index, label_smoothing, reduction)
    plain = weight is None and size_average is None and reduce is None and reduction in ("mean", "sum")
    if plain and not target.is_floating_point() and input.ndim == target.ndim + 1 and input.ndim > 1:
        strides = _strides_of(input)
        by_rows = strides.movedim(1, -1)
        if by_rows.is_contiguous():
            if isinstance(input, LateLogits):
                hidden = input.hidden.flatten(0, -2)
                return linear_cross_entropy(hidden, input.weight, input.bias, target.reshape(-1), terms)
            return cross_entropy(input.movedim(1, -1).flatten(0, -2), target.reshape(-1), terms)
    reduced: Tensor = F.cross_entropy(
        _real(input), target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
    )
    return reduced


def _strides_of(tensor: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return torch.empty_strided(tensor.shape, tensor.stride(), device="meta")


def _real(value: Any) -> Any:
    return value.now() if isinstance(value, LateLogits) else value


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
