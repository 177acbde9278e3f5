"""Floating-point operations of one operation of PyTorch, and the number format it multiplies in.

Counted are matrix products, convolutions, attention and recurrent layers, a multiplication and an addition as two;
everything else is lost in them. The figures are those of the textbook: padding counts as if it were data, so that an
algorithm which multiplies less (Winograd's) may beat them. Most formulas are PyTorch's own, in ``torch.utils.
flop_counter``. Here are those that it lacks, and two that it has otherwise: the gradient of a grouped convolution's
weight, which it counts ``groups`` times, and causal attention, of which only the lower triangle is needed.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Named = dict[str, Any]  # arguments under the names of the operation's schema; what was left out is not there
Formula = Callable[[Named, Any], Any]


def flops_of(operation: Any, arguments: tuple[Any, ...], options: Named, result: Any) -> float:
    """FLOPs of ``result = operation(*arguments, **options)``; 0 where nothing is multiplied or no formula is known."""
    packet = operation.overloadpacket
    if packet.__name__ in _FORMULAS:
        return float(_FORMULAS[packet.__name__](named(operation, arguments, options), result))
    if packet in flop_registry:
        return float(flop_registry[packet](*arguments, **options, out_val=result))
    return 0.0


def multiplies(operation: Any) -> bool:
    """Whether there is a formula for ``operation``."""
    return operation.overloadpacket.__name__ in _FORMULAS or operation.overloadpacket in flop_registry


def format_of(operation: Any, arguments: tuple[Any, ...]) -> str:
    """The number format that ``operation`` multiplies in: a dtype's name, "tf32" or "float8"."""
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            if leaf.dtype == torch.float32 and leaf.device.type == "cuda" and _tf32(operation):
                return "tf32"
            return "float8" if leaf.dtype.itemsize == 1 else str(leaf.dtype).removeprefix("torch.")
    return "float32"


def named(operation: Any, arguments: tuple[Any, ...], options: Named) -> Named:
    """The arguments of a call under the names that the operation's schema gives them."""
    names = (argument.name for argument in operation._schema.arguments)
    return {**dict(zip(names, arguments, strict=False)), **options}


def _convolution(called: Named, result: Tensor) -> Any:
    sides = (called["input"] if called["transposed"] else result).shape[2:]
    return 2.0 * called["input"].shape[0] * math.prod(sides) * called["weight"].numel()


def _convolution_backward(called: Named, result: Any) -> Any:
    """The gradients of input and weight each multiply what the convolution did, if they are asked for."""
    return _convolution(called, called["grad_output"]) * sum(map(bool, called["output_mask"][:2]))


def _attention(of_query: int, of_value: int) -> Formula:
    """Each pair of a query and a key it sees, so many times as long as a query and so many as a value."""

    def formula(called: Named, result: Any) -> Any:
        query, key, value = called["query"], called["key"], called["value"]
        rows, keys = query.shape[-2], key.shape[-2]
        pairs = sum(min(row + 1, keys) for row in range(rows)) if called.get("is_causal") else rows * keys
        widths = of_query * query.shape[-1] + of_value * value.shape[-1]
        return 2.0 * math.prod(query.shape[:-2]) * pairs * widths

    return formula


def _recurrent(passes: int) -> Formula:
    """Each row, a time step of a sequence, meets every weight: once going forward, twice going back."""

    def formula(called: Named, result: Any) -> Any:
        rows = math.prod(called["input"].shape[:-1])
        weights = tree_leaves([value for name, value in called.items() if name.startswith("weight")])
        matrices = [weight for weight in weights if isinstance(weight, Tensor) and weight.ndim == 2]
        return 2.0 * passes * rows * sum(matrix.numel() for matrix in matrices)

    return formula


def _product(left: str, right: str) -> Formula:
    """Each number on the left meets every column on the right, or the one that there is."""

    def formula(called: Named, result: Any) -> Any:
        columns = called[right].shape[-1] if called[right].ndim > 1 else 1
        return 2.0 * called[left].numel() * columns

    return formula


def _linear(called: Named, result: Any) -> Any:
    return 2.0 * called["input"].numel() * called["weight"].shape[0]


_ATTENTION = (
    *("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"),
    "fused_attention_overrideable",
)
_FORMULAS: dict[str, Formula] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    **{f"_scaled_dot_product_{kernel}": _attention(1, 1) for kernel in _ATTENTION},
    # the scores are computed again, and the gradient passes through both products
    **{f"_scaled_dot_product_{kernel}_backward": _attention(3, 2) for kernel in _ATTENTION},
    **dict.fromkeys(("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn"), _recurrent(1)),
    **dict.fromkeys(("mkldnn_rnn_layer_backward", "_cudnn_rnn_backward", "miopen_rnn_backward"), _recurrent(2)),
    "linear": _linear,
    "mv": _product("self", "vec"),
    "addmv": _product("mat", "vec"),
    "dot": _product("self", "tensor"),
    "vdot": _product("self", "other"),
    "addbmm": _product("batch1", "batch2"),
    "_addmm_activation": _product("mat1", "mat2"),
    "_grouped_mm": _product("self", "mat2"),
}


def _tf32(operation: Any) -> bool:
    backends: Any = torch.backends
    place = backends.cudnn.conv if "conv" in operation.overloadpacket.__name__ else backends.cuda.matmul
    return bool(place.fp32_precision == "tf32")
