"""Tools for finding a fault, left on for the training.

Anomaly detection records a Python stack for every operation and looks for NaN in every gradient. Deterministic
algorithms exclude the fast kernels that add up in any order. Both are right while a fault is looked for; neither is
free. A run that must be repeated bit for bit has a reason to keep the second.
Source: https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection,
https://docs.pytorch.org/docs/stable/notes/randomness.html.
"""

from collections.abc import Iterator

import torch

from torchspeed.measure.advice.subject import Advice, Subject

_ANOMALY = ("set_detect_anomaly", "detect_anomaly")
_DETERMINISTIC = ("use_deterministic_algorithms",)


def debugging_left_on(subject: Subject) -> Iterator[Advice]:
    if torch.is_anomaly_enabled():
        operations = len(subject.trace.calls)
        yield Advice(
            "debugging_left_on",
            _written(subject, _ANOMALY),
            "anomaly detection is on",
            f"each of {operations:,} operations of a step records a Python stack and has its gradient checked for NaN",
            "take it out when the fault is found",
        )
    if torch.are_deterministic_algorithms_enabled():
        yield Advice(
            "debugging_left_on",
            _written(subject, _DETERMINISTIC),
            "deterministic algorithms are on",
            "kernels that add up in any order (scatter, index_add, convolutions) give way to slower ones, or raise",
            "take it out unless runs must be equal bit for bit",
        )


def _written(subject: Subject, names: tuple[str, ...]) -> str:
    return next((call.place for call in subject.sources.calls(*names)), "")
