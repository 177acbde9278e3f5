"""Which parameters Muon is for, and which go to its companion."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

Exclude = Sequence[str] | Callable[[str, Tensor], bool]


def split(params: ParamsT, exclude: Exclude, companion: str, companion_lr: float) -> list[dict[str, Any]]:
    """Parameter groups, each with its ``"algorithm"``; a group without one becomes up to two.

    Names are kept where they are given. Raises ``ValueError`` for patterns without names to match, and for a
    pattern that matches no parameter at all: a misspelt head would be trained by the wrong method in silence.
    """
    items: list[Any] = list(params)
    groups: list[dict[str, Any]] = items if items and isinstance(items[0], dict) else [{"params": items}]
    unmatched = set() if callable(exclude) else set(exclude)
    result: list[dict[str, Any]] = []
    for group in groups:
        if "algorithm" in group:
            result.append(dict(group))
            continue
        members: dict[str, list[Any]] = {"muon": [], companion: []}
        for item in _named(group):
            name, param = item if isinstance(item, tuple) else ("", item)
            if callable(exclude):
                excluded = exclude(name, param)
            else:
                if exclude and not name:
                    raise ValueError("exclude has patterns, but the parameters have no names; give named_parameters()")
                matches = {pattern for pattern in exclude if fnmatchcase(name, pattern)}
                unmatched -= matches
                excluded = bool(matches)
            members[companion if excluded or param.ndim < 2 else "muon"].append(item)
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for algorithm, chosen in members.items():
            if chosen:
                rate = {"lr": companion_lr} if algorithm == companion and "lr" not in options else {}
                result.append({**options, **rate, "params": chosen, "algorithm": algorithm})
    if unmatched:
        raise ValueError(f"exclude: no parameter is called {', '.join(sorted(unmatched))}")
    return result


def _named(group: dict[str, Any]) -> list[Any]:
    """The members of a group, as (name, tensor) where names are known."""
    members = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    if "param_names" in group:
        return list(zip(group["param_names"], members, strict=True))
    return members
