"""Sizes of layers that tensor cores cannot take whole.

Tensor cores multiply pieces of 8 × 8 values and more in half precision. A dimension that is not a multiple of 8 is
padded at every call, or sends the product to slower kernels. Best known is a vocabulary of 50 257, which runs faster as
50 304. The first input (3 colours) and the few classes of a classifier are too small to matter: under 32 is left alone.
Source: https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/ ("Requirements to Use
Tensor Cores").
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject, by_place
from torchspeed.measure.advice.trace import Value

_MULTIPLE, _LEAST = 8, 32
_PRODUCTS = ("linear", "conv1d", "conv2d", "conv3d")


def tensor_core_sizes(subject: Subject) -> Iterator[Advice]:
    capability = subject.machine.compute_capability
    if subject.machine.device != "cuda" or capability is None or capability < (7, 0):
        return
    for place, found in by_place(_odd(subject)).items():
        layers = {module: (size, work) for module, size, work in found}
        sizes = sorted({size for size, _ in layers.values()})
        shares = [work for _, work in layers.values() if work is not None]
        yield Advice(
            "tensor_core_sizes",
            place,
            f"{', '.join(list(layers)[:3])}: size {', '.join(map(str, sizes))} is no multiple of {_MULTIPLE}",
            "tensor cores work on padded copies or not at all there"
            + (f", for {sum(shares):.0%} of the FLOPs" if shares else ""),
            f"round up to {', '.join(str(-(-size // _MULTIPLE) * _MULTIPLE) for size in sizes)}",
        )


def _odd(subject: Subject) -> Iterator[tuple[str, tuple[str, int, float | None]]]:
    """(place, (layer, size, its share of the FLOPs))."""
    for call in subject.trace.of(*_PRODUCTS):
        weight = call.argument(1, "weight")
        for size in weight.shape[:2] if isinstance(weight, Value) else ():
            if size % _MULTIPLE and size >= _LEAST:
                where = subject.line_of(call.module) or call.place
                yield where, (call.module or call.op, size, subject.flops.get(call.module))
