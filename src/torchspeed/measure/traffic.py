"""Least bytes that one operation of PyTorch reads from memory and writes to it.

They follow from what a compiler can do. Pointwise operations, views, casts and copies are fused into their neighbours
and move nothing. Products, convolutions, attention, normalisations, pooling, softmax, embeddings, recurrent layers and
reductions end a fusion: each reads its distinct inputs once and writes its outputs once. Expanded tensors count as they
are stored. Only floating-point tensors count: indices and masks can be kept in a byte or computed again. An operation
that is not known moves nothing.

So the sum is a lower bound of a step that is taken operation by operation, whatever pointwise work is fused. A kernel
that joins two of these operations (a linear layer and its cross-entropy, say) may go below it.

Source: Ivanov et al., "Data Movement Is All You Need", arXiv:2007.00072, for which operations fuse.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from torchspeed.measure.flops import Named, multiplies, named


def bytes_of(operation: Any, arguments: tuple[Any, ...], options: Named, result: Any) -> float:
    """Least bytes read and written by ``result = operation(*arguments, **options)``; 0 for what is fused away."""
    name = operation.overloadpacket.__name__
    if name in _LOOKS_UP:
        return 2 * stored_bytes(result)  # the rows that are looked up, not the table
    if not (multiplies(operation) or name in _ENDS_FUSION or torch.Tag.reduction in operation.tags):
        return 0.0
    called = named(operation, arguments, options)
    for argument in _unread(name, called):
        del called[argument]
    return stored_bytes(called) + stored_bytes(result)


def computes(operation: Any) -> bool:
    """False for views and allocations, which start no kernel."""
    return not operation.is_view and operation.overloadpacket.__name__ not in _NO_KERNEL


def stored_bytes(tree: Any) -> float:
    """Bytes that the floating-point tensors in ``tree`` occupy, what they share counted once."""
    pieces: dict[int, dict[int, int]] = {}
    sizes: dict[int, int] = {}
    for leaf in tree_leaves(tree):
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            continue
        start, size = 0, leaf.numel() * leaf.element_size()
        if leaf.layout is torch.strided and not is_traceable_wrapper_subclass(leaf):
            storage = leaf.untyped_storage()._cdata
            sizes[storage] = leaf.untyped_storage().nbytes()
            start = int(leaf.storage_offset())
            expanded = [side for side, stride in zip(leaf.shape, leaf.stride(), strict=True) if side and not stride]
            size //= math.prod(expanded)
        else:
            storage, sizes[id(leaf)] = id(leaf), size
        starts = pieces.setdefault(storage, {})
        starts[start] = max(size, starts.get(start, 0))
    return float(sum(min(sum(starts.values()), sizes[storage]) for storage, starts in pieces.items()))


_POOLING = frozenset(
    f"{kind}{sides}d{end}"
    for sides in (2, 3)
    for kind, end in (
        ("avg_pool", ""),
        ("_adaptive_avg_pool", ""),
        ("adaptive_max_pool", ""),
        ("fractional_max_pool", ""),
        ("max_pool", "_with_indices"),
    )
)
_ENDS = (
    *_POOLING,
    *("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "batch_norm", "_batch_norm_with_update"),
    *("_native_batch_norm_legit", "native_layer_norm", "native_group_norm", "_fused_rms_norm"),
    *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "grid_sampler_2d", "grid_sampler_3d"),
)
_ENDS_FUSION = frozenset(
    [
        *(f"{name}{end}" for name in _ENDS for end in ("", "_backward")),
        *("_softmax", "_log_softmax", "_safe_softmax", "_softmax_backward_data", "_log_softmax_backward_data"),
        *("embedding_dense_backward", "cumsum", "cumprod", "sort", "topk", "_fft_r2c", "_fft_c2r", "_fft_c2c"),
    ]
)
_LOOKS_UP = frozenset({"embedding", "_embedding_bag"})
_NO_KERNEL = frozenset(
    [
        *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize_"),
        *("_unsafe_view", "_reshape_alias", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "set_"),
    ]
)


def _unread(name: str, called: Named) -> list[str]:
    """Arguments of which a kernel needs the shape alone, or a few numbers."""
    if name == "convolution_backward":
        wanted = called["output_mask"]
        return [argument for argument, by in (("input", wanted[1]), ("weight", wanted[0])) if not by]
    if name == "_log_softmax_backward_data":
        return ["grad_output"]  # of a negative log likelihood: one number per row
    return ["self"] if name.removesuffix("_backward") in _POOLING and name not in _POOLING else []
