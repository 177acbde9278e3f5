"""A bias that is added right before a batch norm (or instance norm), which subtracts it again.

The norm subtracts the mean over the batch, and a constant per channel is part of that mean. So the bias has no effect
on the output, its gradient is zero up to rounding, and it is still added, reduced in the backward pass, stepped by the
optimizer and sent to the other ranks. The norm has a bias of its own, after the subtraction.
Source: Ioffe & Szegedy, arXiv:1502.03167, section 3.2 ("the bias b can be ignored").
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject, by_place, named
from torchspeed.measure.advice.trace import Call, Value

_ADD_BIAS = ("linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)))


def bias_before_norm(subject: Subject) -> Iterator[Advice]:
    found = ((subject.line_of(call.module) or call.place, (call, bias)) for call, bias in _cancelled(subject))
    for place, cancelled in by_place(found).items():
        layers = named(call.module or call.op for call, _ in cancelled)
        biases = {bias.parameter: bias.numel for _, bias in cancelled}
        outputs = sum(call.outputs[0].numel for call, _ in cancelled)
        yield Advice(
            "bias_before_norm",
            place,
            f"the bias of {layers} is added right before a norm that subtracts it again",
            f"saves {sum(biases.values()):,} of {subject.parameters:,} parameters, "
            f"and an addition to {outputs:,} values per step",
            "write bias=False there, or --set drop_cancelled_bias=on",
        )


def _cancelled(subject: Subject) -> Iterator[tuple[Call, Value]]:
    for norm in subject.trace.of("batch_norm", "instance_norm"):
        call = subject.trace.producer(norm.input)
        if call is None or call.op not in _ADD_BIAS or subject.trace.only_consumer(call.outputs[0]) is not norm:
            continue
        bias = call.argument(2, "bias")
        if isinstance(bias, Value) and bias.parameter is not None and _by_batch(norm) and _per_channel(call):
            yield call, bias


def _by_batch(norm: Call) -> bool:
    """Whether the mean is that of the batch; a frozen norm subtracts another one."""
    return bool(norm.options.get("training", norm.options.get("use_input_stats", False)))


def _per_channel(call: Call) -> bool:
    """Features of a linear layer are the norm's channels only where they are dimension 1."""
    return call.op != "linear" or len(call.outputs[0].shape) == 2
