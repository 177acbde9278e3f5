"""A stable digest of any Python value that a job may hold: numbers, tensors, functions, classes, datasets.

``hash()`` and ``id()`` change from process to process, and pickles change with their order of construction. A job
must be recognised in another process (a plan is cached by it, a checkpoint belongs to it), so values are reduced to
what they *mean*: functions to their bytecode, defaults, closure and the globals of their own module that they name;
classes to their methods; tensors and arrays to dtype, shape and content; other objects to their class and attributes.
Comments and formatting do not count. Bytecode differs between Python versions, so a digest holds within one.
"""

import functools
import hashlib
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
import xxhash

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_FOREIGN = ("torch", "numpy", "builtins", "functools", "collections", "typing", "abc", "enum", "pathlib")


def fingerprint(value: object) -> str:
    """32 hexadecimal digits; equal for values that mean the same, in any process of the same Python version."""
    digest = hashlib.sha256()
    _Walker(digest.update).walk(value)
    return digest.hexdigest()[:32]


def is_foreign(thing: Any) -> bool:
    """True for functions and classes of PyTorch, NumPy and the like, which a version number stands for."""
    return (getattr(thing, "__module__", None) or "builtins").split(".")[0] in _FOREIGN


class _Walker:
    def __init__(self, update: Any) -> None:
        self.update = update
        self.seen: dict[int, int] = {}
        self.keep: list[object] = []

    def text(self, *parts: object) -> None:
        self.update(("\x1f".join(map(str, parts)) + "\x1e").encode("utf-8", "surrogatepass"))

    def walk(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.text(type(value).__name__, repr(value))
            return
        if id(value) in self.seen:
            self.text("again", self.seen[id(value)])
            return
        self.seen[id(value)] = len(self.seen)
        self.keep.append(value)
        if isinstance(value, (torch.Tensor, np.ndarray)):
            self.array(value)
        elif isinstance(value, Mapping):
            self.text("mapping", len(value))
            for key, item in value.items():
                self.walk(key)
                self.walk(item)
        elif isinstance(value, (list, tuple)):
            self.text(type(value).__name__, len(value))
            for item in value:
                self.walk(item)
        elif isinstance(value, (set, frozenset)):
            self.text("set", *sorted(fingerprint(item) for item in value))
        else:
            self.code(value)

    def array(self, value: torch.Tensor | np.ndarray[Any, Any]) -> None:
        self.text("array", str(value.dtype).removeprefix("torch."), tuple(value.shape))
        if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() < value.numel() * value.element_size():
            self.text("view", value.storage_offset(), value.stride())
            storage = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage())
            value = storage.cpu().numpy()
        elif isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            value = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0)
        base = _smaller_base(value)
        if value.dtype == object:
            self.walk(value.tolist())
        elif base is not None:
            offset = value.__array_interface__["data"][0] - base.__array_interface__["data"][0]
            self.text("view", offset, value.strides)
            self.walk(base)
        else:
            self.text(xxhash.xxh3_128_hexdigest(np.ascontiguousarray(value).data))

    def code(self, value: Any) -> None:
        if isinstance(value, types.MethodType):
            self.walk(value.__func__)
            self.walk(value.__self__)
        elif isinstance(value, functools.partial):
            self.text("partial")
            self.walk([value.func, value.args, value.keywords])
        elif isinstance(value, types.FunctionType) and not is_foreign(value):
            self.text("function", value.__qualname__)
            self.walk(value.__defaults__)
            self.walk(value.__kwdefaults__)
            for cell in value.__closure__ or ():
                self.walk(cell.cell_contents)
            self.bytecode(value.__code__, value)
        elif isinstance(value, type):
            self.text("class", value.__module__ if is_foreign(value) else "", value.__qualname__)
            if not is_foreign(value):
                self.walk(list(value.__bases__))
                for name, member in sorted(vars(value).items()):
                    inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
                    if isinstance(inner, (*_PLAIN, types.FunctionType)) and name not in _CLASS_NOISE:
                        self.text("member", name)
                        self.walk(inner)
        elif callable(value) and hasattr(value, "__qualname__"):
            self.text("callable", getattr(value, "__module__", ""), value.__qualname__)
        elif isinstance(value, types.ModuleType):
            self.text("module", value.__name__)
        else:
            self.text("object")
            self.walk(type(value))
            if isinstance(value, (range, slice, PurePath)):
                self.text(repr(value))
            slots = [n for kind in type(value).__mro__ for n in getattr(kind, "__slots__", ()) if hasattr(value, n)]
            self.walk({name: getattr(value, name) for name in sorted(slots) if not name.startswith("__")})
            self.walk(dict(sorted(getattr(value, "__dict__", {}).items())))

    def bytecode(self, code: types.CodeType, owner: types.FunctionType) -> None:
        self.update(code.co_code)
        self.text(*code.co_names, *code.co_varnames)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.bytecode(constant, owner)
            else:
                self.walk(constant)
        for name in code.co_names:
            target = owner.__globals__.get(name)
            ours = isinstance(target, (types.FunctionType, type)) and target.__module__ == owner.__module__
            if ours or isinstance(target, (int, float, str, tuple, list, dict, torch.Tensor, np.ndarray)):
                self.text("global", name)
                self.walk(target)


def _smaller_base(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """The data behind a view that repeats them: sliding windows, broadcasts."""
    base: Any = array.base
    while base is not None and not (isinstance(base, np.ndarray) and base.nbytes < array.nbytes):
        base = getattr(base, "base", None)
    return base


_CLASS_NOISE = {"__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"}
