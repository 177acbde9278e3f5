"""Another ``forward`` for one module, in place: its class, names, hooks and ``state_dict`` stay.

The new function is bound to the instance as a method, which is all that pickling and copying need: a deep copy
carries the method, bound to the copy; a pickle names it (``forward``), so that what is loaded runs as its class is
written. The function must therefore reach everything through ``self``, and never hold a module.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from torchspeed.errors import NotApplicable

Forward = Callable[..., Any]


def forward_of(module: nn.Module) -> Forward:
    """The function, not yet bound, that ``module`` runs now.

    Raises NotApplicable for an instance whose ``forward`` was replaced by something that is not a method of it.
    """
    own = module.__dict__.get("forward")
    if own is None:
        written: Forward = type(module).forward
        return written
    if isinstance(own, MethodType) and own.__self__ is module:
        return own.__func__
    raise NotApplicable(f"forward of a {type(module).__name__} was already replaced, by a {type(own).__name__}")


def set_forward(module: nn.Module, forward: Forward) -> None:
    """``module`` runs ``forward(self, ...)`` from now on."""
    forward.__name__ = "forward"  # a bound method is pickled by the name of its function
    module.__dict__["forward"] = MethodType(forward, module)


def is_as_written(module: nn.Module) -> bool:
    """Whether ``module`` does just what its class says: no other forward, and no hook that looks on."""
    return "forward" not in module.__dict__ and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks at what goes in or out of ``module``."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks)
