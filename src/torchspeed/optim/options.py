"""Named options of optimizers and schedules: checked when the job is written, not at step 1.

The valid options are read from the signature of whatever will be called, so there is no second list to keep.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torchspeed.errors import JobError

Options = tuple[tuple[str, Any], ...]


def frozen(options: Mapping[str, Any]) -> Options:
    """Options as sorted pairs, lists as tuples: hashable, and the same text whatever the order given."""
    return tuple(sorted((key, tuple(v) if isinstance(v, list) else v) for key, v in options.items()))


def known_name(kind: str, name: str, names: Collection[str]) -> None:
    """Raise ``JobError`` unless ``name`` is one of ``names``."""
    if name not in names:
        raise JobError(f"there is no {kind} {name!r}; the {kind}s are: {', '.join(names)}")


def check(
    what: str,
    call: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    hidden: Collection[str],
    also: Collection[str] = (),
) -> None:
    """Raise ``JobError`` when ``options`` has a key that ``call`` does not take, or lacks one that it needs.

    ``what``: subject of the message, as "optimizer 'adam'". ``hidden``: parameters of ``call`` that are not
    options. ``also``: names that the public function takes itself, shown to whoever misspells one.
    """
    parameters = {k: p for k, p in inspect.signature(call).parameters.items() if k not in hidden}
    valid = ", ".join([*also, *parameters])
    for key in options:
        if key not in parameters:
            raise JobError(f"{what} has no option {key!r}; its options are: {valid or 'none'}")
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            raise JobError(f"{what} needs the option {key!r}; its options are: {valid}")
