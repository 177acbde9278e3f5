"""A stable digest of any Python value that a job may hold: numbers, tensors, functions, classes, datasets.

``hash()`` and ``id()`` change from process to process, and pickles change with their order of construction. A job
must be recognised in another process (a plan is cached by it, a checkpoint belongs to it), so values are reduced to
what they *mean*: functions to their bytecode, defaults, closure and the globals that they name; classes to their
methods; tensors and arrays to dtype, shape and content; other objects to their class and attributes.
Comments and formatting do not count. Bytecode differs between Python versions, so a digest holds within one.

A name in a function's code is followed into every module of the user's, ``from helpers import crop`` and
``helpers.crop`` alike: pixels that ``crop`` made must not outlive it. Code that was installed (the standard library,
site-packages) is named and not read; the version of its package stands for it. Not seen: modules that a function
imports when it is called, and what it looks up by a computed name.
"""

import functools
import hashlib
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
import xxhash

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_DATA = (int, float, str, tuple, list, dict, torch.Tensor, np.ndarray)
_COUNTED_ELSEWHERE = ("torch", "numpy")
_OURS = "torchspeed"


def fingerprint(value: object) -> str:
    """32 hexadecimal digits; equal for values that mean the same, in any process of the same Python version."""
    digest = hashlib.sha256()
    walker = _Walker(digest.update)
    walker.walk(value)
    while walker.named:
        walker.walk(walker.named.popleft())
    return digest.hexdigest()[:32]


@functools.cache
def own_code() -> str:
    """A digest of this package's own source files: what was measured by other code need not hold."""
    digest = xxhash.xxh3_128()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_foreign(thing: Any) -> bool:
    """True for modules, and functions and classes of them, that were installed: a version number stands for them."""
    return _release(_module_name(thing)) is not None


def _module_name(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    return name if isinstance(name, str) else "builtins"


def _release(module: str) -> str | None:
    """What stands for the code of a foreign module, "" where its name does; None for the user's own and this package's.

    Code in site-packages whose version nothing tells is read like the user's own.
    """
    root = module.split(".")[0]
    if root == _OURS:
        return None
    if root in _COUNTED_ELSEWHERE:
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(file, str):
        return "" if root in sys.stdlib_module_names else None
    place = _place(file)
    if place == "site":
        stated = getattr(sys.modules.get(root), "__version__", None)
        return stated if isinstance(stated, str) else _installed_version(root)
    return "" if place == "python" else None


@functools.cache
def _place(file: str) -> str:
    """Where a module lies: "python" for the standard library, "site" for installed packages, else "user"."""
    path = Path(file).absolute()
    places = {key: Path(place) for key, place in sysconfig.get_paths().items()}
    site = any(_within(path, places[key]) for key in ("purelib", "platlib"))
    if site or not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return "site"
    return "python" if any(_within(path, places[key]) for key in ("stdlib", "platstdlib")) else "user"


def _within(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder) or path.resolve().is_relative_to(folder.resolve())


@functools.cache
def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _Walker:
    def __init__(self, update: Callable[[bytes], object]) -> None:
        self.update = update
        self.named: deque[object] = deque()  # by code that was read; read later, or a long chain of calls overflows
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
            if is_foreign(value):
                self.installed("class", value)
            else:
                self.text("class", "", value.__qualname__)
                self.walk(list(value.__bases__))
                for name, member in sorted(vars(value).items()):
                    inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
                    inner = inner.func if isinstance(inner, functools.cached_property) else inner
                    counts = isinstance(inner, (*_PLAIN, types.FunctionType)) and name not in _CLASS_NOISE
                    if counts or (not name.startswith("__") and (isinstance(inner, _DATA) or _is_code(inner))):
                        self.text("member", name)
                        self.walk(inner)
        elif callable(value) and hasattr(value, "__qualname__"):
            self.installed("callable", value)
            self.walk(getattr(value, "__wrapped__", None))  # of functools.cache, numba.njit
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

    def installed(self, kind: str, value: Any) -> None:
        module = _module_name(value)
        self.text(kind, module, value.__qualname__, _release(module) or "")

    def bytecode(self, code: types.CodeType, owner: types.FunctionType) -> None:
        self.update(code.co_code)
        self.text(*code.co_names, *code.co_varnames)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.bytecode(constant, owner)
            else:
                self.walk(constant)
        self.names(code.co_names, owner.__globals__, owner.__module__, set())

    def names(self, names: tuple[str, ...], scope: Mapping[str, Any], module: str, met: set[str]) -> None:
        """What code of a module names in a scope: its globals, then the attributes of modules among these."""
        for name in names:
            target = scope.get(name)
            if isinstance(target, types.ModuleType):
                if _is_read(target, module) and target.__name__ not in met:
                    met.add(target.__name__)
                    self.text("in", name)
                    self.names(names, vars(target), module, met)
                    self.text("out")
            elif isinstance(target, _DATA):
                self.text("global", name)
                self.walk(target)
            elif _is_code(target) and _is_read(target, module):
                self.text("global", name)
                self.named.append(target)


def _is_code(value: Any) -> bool:
    wraps = callable(value) and "__wrapped__" in getattr(value, "__dict__", ())
    return wraps or isinstance(value, (types.FunctionType, types.MethodType, type, functools.partial))


def _is_read(target: Any, module: str) -> bool:
    """Whether what code of ``module`` names is read with it: of this package only what lies in the same file is."""
    if isinstance(target, functools.partial):
        return True
    if _module_name(target).split(".")[0] == _OURS:
        return _module_name(target) == module
    return not is_foreign(target)


def _smaller_base(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """The data behind a view that repeats them: sliding windows, broadcasts."""
    base: Any = array.base
    while base is not None and not (isinstance(base, np.ndarray) and base.nbytes < array.nbytes):
        base = getattr(base, "base", None)
    return base


_CLASS_NOISE = {"__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"}
