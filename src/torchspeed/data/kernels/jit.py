"""``@kernel``: a Python function over arrays that runs as machine code, without the interpreter lock.

A Python loop over pixels takes 50 ns per step, and a NumPy expression one pass over memory per operator. Numba
compiles the loop itself, for the very processor it runs on, and one pass does all of the work. Threads then scale: a
kernel holds no lock, and every thread works on a batch of its own.

Numba takes about half a second to import and a kernel from one to five to compile, so both wait for the first call;
what was compiled is kept beside the source (or, where that cannot be written, in Numba's own folder of the user) and
is loaded in milliseconds the next time. ``compile_seconds`` says what this process spent, so that it can be reported.

A kernel may call other kernels of the same file. Source: https://numba.readthedocs.io, "Compiling Python code with
@jit".
"""

import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.RLock()


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile ``function`` with Numba at its first call."""
    return cast("Callable[P, R]", _Kernel(function))


def instructions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine instructions, spelled out in LLVM's language for what Numba cannot say: lanes, shuffles, fused
    multiply-add. ``function`` is an intrinsic of Numba; it becomes part of the kernel that calls it."""
    return _Instructions(function)


def compile_seconds() -> float:
    """Seconds that this process has spent on importing Numba and on compiling, or loading, kernels."""
    return _Numba.import_seconds + (_Numba.timer.duration if _Numba.timer and _Numba.timer.done else 0.0)


class _Deferred(ABC):
    """Compiled at the first call."""

    def __init__(self, function: Any) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.compiled: Any = None

    def __call__(self, *arguments: Any) -> Any:
        return (self.compiled or self.dispatcher())(*arguments)

    def dispatcher(self) -> Any:
        """Numba's object for this kernel."""
        with _lock:
            if self.compiled is None:
                self.compiled = self._compile()
            return self.compiled

    @abstractmethod
    def _compile(self) -> Any: ...


class _Kernel(_Deferred):
    def _compile(self) -> Any:
        """The kernels that it names come first."""
        numba = _Numba.get()
        names = {**self.function.__globals__}
        for name in self.function.__code__.co_names:
            if isinstance(names.get(name), _Deferred):
                names[name] = names[name].dispatcher()
        resolved = FunctionType(self.function.__code__, names, self.function.__name__)
        resolved.__qualname__, resolved.__module__ = self.function.__qualname__, self.function.__module__
        # As NumPy divides: a test for zero before each division would keep loops from being vectorised.
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy")(resolved)
        except RuntimeError:  # no folder where what was compiled could be kept
            return numba.njit(nogil=True, error_model="numpy")(resolved)


class _Instructions(_Deferred):
    def _compile(self) -> Any:
        from numba.extending import intrinsic

        return intrinsic(prefer_literal=True)(self.function)


class _Numba:
    """The package, imported once, and its clock."""

    import_seconds = 0.0
    timer: Any = None

    @classmethod
    def get(cls) -> Any:
        started = time.perf_counter()
        import numba
        from numba.core import event

        if cls.timer is None:
            cls.import_seconds = time.perf_counter() - started
            cls.timer = event.TimingListener()
            event.register("numba:compile", cls.timer)
        return numba
