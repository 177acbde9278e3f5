"""One Linear behind a flattened picture that holds nearly all parameters of a model.

Flattening keeps a weight for every channel *at every place*: C·H·W inputs. The layer then holds most of the model and
does little of its work, and each step reads its weights, writes its gradients and moves its optimizer state: at a few
FLOPs per byte that is bound by memory, not by arithmetic. A mean over the places leaves C inputs, fits any picture
size and overfits less.
Source: Lin et al., "Network in network", arXiv:1312.4400, section 3.2.
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject
from torchspeed.measure.advice.trace import VIEWS, Call, Value

_SHARE, _LEAST = 0.8, 1_000_000
_SPATIAL = range(3, 6)  # dimensions of [N, C, L], [N, C, H, W], [N, C, D, H, W]


def wide_linear(subject: Subject) -> Iterator[Advice]:
    for call in subject.trace.of("linear"):
        weight, flat = call.argument(1, "weight"), call.input
        if not isinstance(weight, Value) or flat is None or weight.numel < max(_LEAST, _SHARE * subject.parameters):
            continue
        shape = _unflattened(subject, call, flat)
        if shape is None:
            continue
        channels, features = shape[1], weight.shape[0]
        work = subject.flops.get(call.module)
        doing = f" and does {work:.0%} of the FLOPs" if work is not None else ""
        yield Advice(
            "wide_linear",
            subject.line_of(call.module) or call.place,
            f"{call.module or 'a Linear'} takes {flat.shape[-1]:,} inputs, a flattened {'×'.join(map(str, shape[1:]))}",
            f"it holds {weight.numel / subject.parameters:.0%} of {subject.parameters:,} parameters{doing}; "
            f"weights and gradients alone are {_bytes(2 * 4 * weight.numel)} that every step reads and writes",
            f"pool globally before it, x.mean({_axes(shape)}): {channels * features:,} weights are left",
        )


def _unflattened(subject: Subject, call: Call, flat: Value) -> tuple[int, ...] | None:
    """[N, C, ...] before it was flattened, or None if it never had places to pool over."""
    value: Value | None = flat
    while value is not None:
        maker = subject.trace.producer(value)
        if maker is None or maker.input is None or maker.op not in VIEWS | {"dropout", "relu"}:
            return None
        value = maker.input
        places = value.numel // max(1, value.shape[0] * value.shape[1]) if len(value.shape) in _SPATIAL else 1
        if places > 1 and value.numel // value.shape[0] == flat.shape[-1]:
            return value.shape
    return None


def _axes(shape: tuple[int, ...]) -> str:
    return str(tuple(range(2 - len(shape), 0))) if len(shape) > 3 else "-1"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
