"""Which layer failed, on what shapes, and at which line of the user's file it was made."""

import inspect
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchspeed.errors import JobError

_CHANNELS = {nn.Conv1d: 1, nn.Conv2d: 1, nn.Conv3d: 1, nn.BatchNorm1d: 1, nn.BatchNorm2d: 1, nn.BatchNorm3d: 1}


class Trace:
    """A context that follows a forward pass: which layers ran, with what shapes, and which was entered last."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {module: name for name, module in model.named_modules() if not any(module.children())}
        self.entered: tuple[nn.Module, Any] | None = None
        self.finished: list[tuple[str, Any]] = []
        self.hooks: list[Any] = []

    def __enter__(self) -> "Trace":
        for module in self.names:
            self.hooks.append(module.register_forward_pre_hook(self._enter))
            self.hooks.append(module.register_forward_hook(self._leave))
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.entered = module, inputs

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.finished.append((self.names[module], output))
        self.entered = None

    def explain(self, error: Exception, factory: Callable[..., Any], inputs: Any) -> JobError:
        """``error``, raised in this trace, with layer, shapes, line, and the value that fits where it is known."""
        message = str(error).strip().split("\n")[0]
        if self.entered is None:
            return JobError(f"{raised_at(error)}the model raised {type(error).__name__}: {message}")
        module, arguments = self.entered
        name = _spoken(self.names[module], module)
        line = defined_at(self.model, self.names[module], factory)
        given = arguments[0] if arguments and isinstance(arguments[0], Tensor) else None
        before = next((n for n, out in reversed(self.finished) if _has_weights(self.model, n)), None)
        source = "the input" if before is None else _spoken(before, self.model.get_submodule(before))
        whole = f" for {_per_sample(inputs)} input" if isinstance(inputs, Tensor) else ""
        if isinstance(module, nn.Linear) and given is not None and given.shape[-1] != module.in_features:
            fits = given.shape[-1]
            return JobError(
                f"{line}{name} expects {module.in_features} features but {source} gives {fits}{whole}; "
                f"set in_features={fits} or use nn.LazyLinear"
            )
        axis = _CHANNELS.get(type(module))
        if axis is not None and given is not None and given.ndim > axis:
            expected = getattr(module, "in_channels", None) or getattr(module, "num_features", None)
            argument = "in_channels" if hasattr(module, "in_channels") else "num_features"
            if expected != given.shape[axis]:
                return JobError(
                    f"{line}{name} expects {expected} channels but {source} gives {given.shape[axis]} "
                    f"(shape {sizes(given)}){whole}; set {argument}={given.shape[axis]}, "
                    "or mind that images are [N, C, H, W]"
                )
        shapes = ", ".join(sizes(a) for a in arguments if isinstance(a, Tensor))
        return JobError(f"{line}{name} ({module}) cannot take {shapes} from {source}{whole}: {message}")


def defined_at(model: nn.Module, name: str, factory: Callable[..., Any]) -> str:
    """ "file:line: " of the assignment that made the layer ``name``, or of the factory; "" when neither is known."""
    parts = name.split(".") if name else []
    owner: Any = model
    found = ""
    for part in parts:
        found = _assignment(type(owner), part) or found
        owner = getattr(owner, part)
    return found or _place_of(factory)


def reshape_line(model: nn.Module) -> str:
    """ "file:line: " of the first view or reshape in the model's forward."""
    return _first_line_with(type(model).forward, r"\.(view|reshape)\(")


def raised_at(error: BaseException) -> str:
    """ "file:line: " of the innermost frame that is the user's, or ""."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}: "
    return ""


def sizes(value: Any) -> str:
    """[64, 3, 32, 32], or the type of what is not a tensor."""
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _assignment(owner: type, attribute: str) -> str:
    return _first_line_with(owner, rf"\bself\.{re.escape(attribute)}\s*(:[^=]+)?=[^=]")


def _first_line_with(code: Any, pattern: str) -> str:
    """ "file:line: " of the first line in the user's ``code`` that ``pattern`` is found in, or ""."""
    try:
        lines, first = inspect.getsourcelines(code)
        path = str(inspect.getsourcefile(code))
    except (OSError, TypeError):
        return ""
    found = (number for number, text in enumerate(lines, first) if re.search(pattern, text))
    line = next(found, None) if _is_users(path) else None
    return "" if line is None else f"{path}:{line}: "


def _place_of(function: Any) -> str:
    try:
        path, line = inspect.getsourcefile(function), inspect.getsourcelines(function)[1]
    except (OSError, TypeError):
        return ""
    return f"{path}:{line}: " if _is_users(str(path)) else ""


def _is_users(path: str) -> bool:
    """Not a file of PyTorch's, nor one of this package's machinery (its recipes and models are read as users')."""
    ours = Path(__file__).resolve().parents[1]
    theirs = Path(torch.__file__).resolve().parent
    file = Path(path).resolve()
    if file.is_relative_to(ours):
        return file.parent.name in ("recipes", "models")
    return not file.is_relative_to(theirs) and not path.startswith("<frozen")


def _spoken(name: str, module: nn.Module) -> str:
    """``fc1``, but "layer 4 (Linear)" for what only has a number."""
    kind = type(module).__name__
    return f"layer {name} ({kind})" if name.rpartition(".")[2].isdigit() else name or kind


def _has_weights(model: nn.Module, name: str) -> bool:
    return any(True for _ in model.get_submodule(name).parameters(recurse=False))


def _per_sample(inputs: Tensor) -> str:
    return "×".join(map(str, inputs.shape[1:])) or "scalar"
