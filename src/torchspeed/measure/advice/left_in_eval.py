"""A step that leaves the model in evaluation mode.

In evaluation mode dropout does nothing and batch norm uses running statistics that it no longer updates. A ``.eval()``
in the step (to generate, to log, to evaluate now and then) without the ``.train()`` after it makes the rest of the
epoch another training than the one that was meant.
Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval.
"""

from collections.abc import Iterator

from torch import nn

from torchspeed.measure.advice.subject import Advice, Subject

_HAVE_MODES = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def left_in_eval(subject: Subject) -> Iterator[Advice]:
    if not subject.trace.ends_in_eval:
        return
    layers = sum(isinstance(module, _HAVE_MODES) for module in subject.run.model.modules())
    step = subject.sources.of(subject.job.step)
    inside = [call.place for call in subject.sources.calls("eval") if step is None or _within(call.place, step.place)]
    yield Advice(
        "left_in_eval",
        inside[0] if inside else "",
        "the step leaves the model in evaluation mode",
        f"{layers} layer{'s' * (layers != 1)} of dropout and batch norm work otherwise from the second step on",
        "call model.train() when you are done evaluating",
    )


def _within(place: str, start: str) -> bool:
    """In the same file, and not before it."""
    file, _, line = place.rpartition(":")
    other, _, first = start.rpartition(":")
    return file == other and int(line) >= int(first)
