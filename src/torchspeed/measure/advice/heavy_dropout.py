"""Dropout that lets almost nothing through.

``nn.Dropout(p)`` drops with probability ``p``; in other places (TensorFlow 1, older papers) the number is what is
*kept*. A 0.9 that was meant to keep nine values of ten keeps one, and scales it by ten: gradients get ten times the
variance, and the layer behind it sees a tenth of its inputs.
Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout.html.
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject, by_place, named
from torchspeed.measure.advice.trace import Call

_HEAVY = 0.9
_OPS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout")


def heavy_dropout(subject: Subject) -> Iterator[Advice]:
    heavy = [call for call in subject.trace.of(*_OPS) if _p(call) >= _HEAVY and call.argument(2, "training")]
    for place, calls in by_place((subject.place_of(call), call) for call in heavy).items():
        p = _p(calls[0])
        kept = (
            "nothing comes through"
            if p >= 1
            else f"1 value in {1 / (1 - p):.0f} comes through, times {1 / (1 - p):.0f}"
        )
        yield Advice(
            "heavy_dropout",
            place,
            f"dropout with p={p:g}{f' ({named(c.module for c in calls)})' if calls[0].module else ''}",
            kept,
            f"p is what is dropped; if {p:g} was to be kept, write p={1 - p:g}",
        )


def _p(call: Call) -> float:
    p = call.argument(1, "p")
    return float(p) if isinstance(p, (int, float)) else 0.5
