"""A softmax (or sigmoid) whose output goes into a loss that takes the softmax (or sigmoid) itself.

``cross_entropy`` is ``nll_loss(log_softmax(input))``. Given probabilities, which lie between 0 and 1, it can never see
a class as more likely than e / (e + C - 1): the loss has a floor far above zero, and its gradient passes through a
second, nearly flat softmax. It trains, slowly and to a worse end, which is why it is so seldom noticed. A log-softmax
before it changes nothing and is computed twice.
Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html ("unnormalized logits").
"""

import math
from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject
from torchspeed.measure.advice.trace import VIEWS, Call

_SQUASHED_TWICE = {
    "cross_entropy": ("softmax", "log_softmax"),
    "binary_cross_entropy_with_logits": ("sigmoid",),
    "nll_loss": ("softmax",),
}
_TAKES_LOGITS = {"cross_entropy": "CrossEntropyLoss", "binary_cross_entropy_with_logits": "BCEWithLogitsLoss"}


def softmax_before_loss(subject: Subject) -> Iterator[Advice]:
    for loss in subject.trace.of(*_SQUASHED_TWICE):
        before = subject.trace.producer(loss.input, through=VIEWS)
        if before is None or before.op not in _SQUASHED_TWICE[loss.op]:
            continue
        taker = _TAKES_LOGITS.get(loss.op, "NLLLoss")
        name = f" ({before.module})" if before.module else ""
        if loss.op == "nll_loss":
            effect = "the loss is minus a probability and not minus its logarithm, so sure mistakes cost almost nothing"
            remedy = "use log_softmax there, or CrossEntropyLoss on what comes before it"
        else:
            effect = _effect(before, loss)
            remedy = f"give {taker} what comes before the {before.op}, and take the {before.op} where you predict"
        found = f"the output of {before.op}{name} goes into {taker}"
        yield Advice("softmax_before_loss", subject.place_of(before), found, effect, remedy)


def _effect(before: Call, loss: Call) -> str:
    if before.op == "log_softmax":
        return "the values stay the same, and it is computed twice"
    if before.op == "sigmoid":
        zero, one = math.log(2), math.log1p(1 / math.e)
        return f"a perfect answer still costs {zero:.2f} where the target is 0, {one:.2f} where it is 1"
    shape = before.outputs[0].shape if before.outputs else ()
    classes = shape[1] if len(shape) > 1 else shape[0]
    return f"with {classes} classes the loss cannot fall below {math.log1p((classes - 1) / math.e):.2f} (and not to 0)"
