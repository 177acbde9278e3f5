"""A monotonic activation before a max pool: pooling first gives the same values from k² times fewer activations.

The largest of f(x) is f of the largest x where f never falls. So ``pool(relu(x)) == relu(pool(x))``, gradients
included, and the activation, which is bound by memory traffic, reads and writes 1/k² of the values, and keeps 1/k² of
them for the backward pass. GELU, SiLU and Mish fall for small negative x: they are left alone.
Source: follows from monotonicity; Goodfellow et al., "Deep Learning", 9.3, on what a pool keeps.
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject, by_place, named
from torchspeed.measure.advice.trace import Call

_MONOTONIC = {"relu", "relu6", "sigmoid", "tanh", "elu", "selu", "celu", "hardtanh", "hardsigmoid", "softplus"}
_POOLS = tuple(f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))


def activation_before_pooling(subject: Subject) -> Iterator[Advice]:
    found = ((subject.place_of(activation), (activation, pool)) for activation, pool in _pairs(subject))
    for place, pairs in by_place(found).items():
        before = sum(activation.outputs[0].numel for activation, _ in pairs)
        after = sum(pool.outputs[0].numel for _, pool in pairs)
        activation, pool = pairs[0]
        layers = named(activation.module for activation, _ in pairs if activation.module)
        yield Advice(
            "activation_before_pooling",
            place,
            f"{activation.op}{f' ({layers})' if layers else ''} comes before {pool.op}",
            f"{before / after:.3g}× less activation work, same result: {after:,} values per step, not {before:,}",
            f"put the pool before the {activation.op}, or --set pool_before_activation=on",
        )


def _pairs(subject: Subject) -> Iterator[tuple[Call, Call]]:
    for pool in subject.trace.of(*_POOLS):
        activation = subject.trace.producer(pool.input)
        if activation is None or not _never_falls(activation):
            continue
        alone = subject.trace.only_consumer(activation.outputs[0]) is pool
        if alone and pool.outputs and pool.outputs[0].numel < activation.outputs[0].numel:
            yield activation, pool


def _never_falls(activation: Call) -> bool:
    if activation.op == "leaky_relu":
        slope = activation.argument(1, "negative_slope")
        return slope is None or slope >= 0
    alpha = activation.argument(1, "alpha") if activation.op in ("elu", "celu") else 1.0
    return activation.op in _MONOTONIC and (not isinstance(alpha, (int, float)) or alpha >= 0)
