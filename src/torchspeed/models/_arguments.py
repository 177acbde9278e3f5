"""Checks of constructor arguments that the families share.

A search over architectures proposes depth and width as plain numbers, so a wrong one must end at once, with
the argument's name and what it may be, and not as a shape error ten modules further down.
"""

from collections.abc import Iterable

from torchspeed.errors import JobError


def positive(model: str, **sizes: int) -> None:
    """Each of ``sizes`` is an int of at least 1; raises ``JobError`` otherwise."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise JobError(f"{model}: {name}={value!r}; give a whole number of at least 1")


def probability(model: str, **rates: float) -> None:
    """Each of ``rates`` lies in [0, 1); raises ``JobError`` otherwise."""
    for name, value in rates.items():
        if not 0.0 <= value < 1.0:
            raise JobError(f"{model}: {name}={value!r}; give a probability of at least 0 and below 1")


def choice(model: str, valid: Iterable[str], **values: str) -> None:
    """Each of ``values`` is one of ``valid``; raises ``JobError`` otherwise."""
    names = tuple(valid)
    for name, value in values.items():
        if value not in names:
            raise JobError(f"{model}: {name}={value!r}; valid: {', '.join(names)}")
