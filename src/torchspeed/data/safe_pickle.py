"""Read dictionaries of arrays, lists and strings out of a pickle, without unpickling.

The python archive of CIFAR-10 is a set of pickles, and a pickle is a program: unpickling calls whatever functions
it names, with whatever arguments it gives. Restricting the names still leaves NumPy's reconstruction functions to
be called with hostile arguments, and tuples that nest until hashing one never ends. But such a file uses few
instructions, so this module reads them itself: ``pickletools`` splits the stream into instructions, a stack machine
of plain values obeys those it knows, and the four names that NumPy puts in an array's pickle are *recognised*,
never imported or called. What comes out was built here, by ``numpy.frombuffer``. No value is hashed, compared or
shown before its type is known: a few bytes can nest a tuple so that its hash or its text takes for ever.

Python 2 strings, as in the original files, come out as bytes. Source of the instructions: PEP 307 (protocol 2),
PEP 3154 (protocol 4) and the docstrings of ``pickletools``.
"""

import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchspeed.errors import DataError


@dataclass(frozen=True)
class _Name:
    """A global that the stream names; nothing is looked up."""

    module: str
    name: str


_RECONSTRUCT = {
    _Name("numpy.core.multiarray", "_reconstruct"),
    _Name("numpy._core.multiarray", "_reconstruct"),  # since NumPy 2
}
_NDARRAY = _Name("numpy", "ndarray")
_DTYPE = _Name("numpy", "dtype")
_ADMITTED = _RECONSTRUCT | {_NDARRAY, _DTYPE}
_PLAIN_NUMBERS = re.compile(r"[biuf][1248]")

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip
_PYTHON2_STRINGS = {"BINSTRING", "SHORT_BINSTRING"}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _DType:
    """A dtype on the stack: made by its code ("u1"), then told its byte order by BUILD."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "|"


class _Array:
    """An array on the stack: made empty, then given shape, dtype and bytes by BUILD."""

    values: NDArray[Any] | None = None


class _Refused(Exception):
    pass


def read_pickled_arrays(data: bytes, where: str) -> dict[bytes | str, Any]:
    """The dictionary that the pickle ``data`` holds; its values are numbers, bytes, str, lists, tuples, arrays.

    ``where`` names the file in errors. Raises ``DataError`` for anything else: another global, another
    instruction, an array whose bytes do not fill its shape, a torn stream. Bound the size of ``data`` before.
    """
    try:
        result = _Machine().run(data)
        if not isinstance(result, dict):
            raise _Refused(f"it holds a {type(result).__name__}, not a dictionary")
        return {key: _finished(value) for key, value in result.items()}
    # What pickletools and a stack that ran empty raise; MemoryError is a declared length beyond reason.
    except (_Refused, ValueError, IndexError, KeyError, TypeError, AttributeError, MemoryError) as error:
        reason = f"{error}" if isinstance(error, _Refused) else f"torn or not a pickle: {error!r}"
        raise DataError(
            f"{where}: refused ({reason}); only a plain dictionary of arrays, lists and strings is read from a "
            "pickle, and none of it is run. Get the original file again"
        ) from error


class _Machine:
    """The stack machine that a pickle addresses, over plain values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in _instructions(data):
            if opcode == "STOP":
                return self.stack.pop()
            self.obey(opcode, argument)
        raise _Refused("the stream ends without STOP")

    def obey(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(argument)
        elif opcode in _PYTHON2_STRINGS:
            stack.append(argument.encode("latin-1"))  # pickletools decoded it byte for byte
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            stack.append(_EMPTY[opcode]())
        elif opcode in ("PROTO", "FRAME"):
            pass
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode == "MARK":
            self.marks.append(len(stack))
        elif opcode in _FIXED_TUPLES:
            stack.append(tuple(self.pop(_FIXED_TUPLES[opcode])))
        elif opcode == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif opcode in ("APPEND", "APPENDS"):
            items = self.pop_to_mark() if opcode == "APPENDS" else self.pop(1)
            _expect(stack[-1], list).extend(_finished(item) for item in items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self.pop_to_mark() if opcode == "SETITEMS" else self.pop(2)
            _set_items(_expect(stack[-1], dict), items)
        elif opcode == "GLOBAL":
            stack.append(_admit(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            stack.append(_admit(*self.pop(2)))
        elif opcode == "REDUCE":
            function, arguments = self.pop(2)
            stack.append(_make(function, arguments))
        elif opcode == "BUILD":
            (state,) = self.pop(1)
            _build(stack[-1], state)
        else:
            raise _Refused(f"the instruction {opcode} has no place in such a file")

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("pop from an empty stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def pop_to_mark(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())


def _instructions(data: bytes) -> Iterator[tuple[str, Any, int | None]]:
    return ((opcode.name, argument, position) for opcode, argument, position in pickletools.genops(data))


def _admit(module: Any, name: Any) -> _Name:
    found = _Name(_expect(module, str), _expect(name, str))
    if found not in _ADMITTED:
        raise _Refused(f"it asks for {module}.{name}")
    return found


def _make(function: Any, arguments: Any) -> _Array | _DType:
    """What REDUCE would call: an empty array, or a dtype by its code."""
    called = _expect(function, _Name)
    if called in _RECONSTRUCT and arguments[0] == _NDARRAY:
        return _Array()
    if called == _DTYPE:
        code = _text(arguments[0])
        if not _PLAIN_NUMBERS.fullmatch(code):
            raise _Refused(f"an array of dtype {code!r}, which is not plain numbers")
        return _DType(code)
    raise _Refused("it calls something that is neither an array nor a dtype")


def _build(target: Any, state: Any) -> None:
    """What ``__setstate__`` would do, for a dtype (version, byte order, …) and an array (version, shape, …)."""
    if isinstance(target, _DType):
        target.order = _text(state[1])
        if target.order not in ("|", "<", ">", "="):
            raise _Refused(f"a dtype of byte order {target.order!r}")
    elif isinstance(target, _Array):
        _, shape, dtype, fortran_order, raw = state
        if not all(isinstance(side, int) and side >= 0 for side in _expect(shape, tuple)):
            raise _Refused("an array whose shape is not a tuple of sides")
        code = _expect(dtype, _DType)
        flat = np.frombuffer(_expect(raw, bytes), np.dtype(code.order + code.code))
        target.values = flat.reshape(shape, order="F" if fortran_order else "C")
    else:
        raise _Refused(f"it sets the state of a {type(target).__name__}")


def _set_items(target: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (bytes, str)):  # hashing nested tuples can take for ever
            raise _Refused(f"a key that is a {type(key).__name__}")
        target[key] = _finished(value)


def _finished(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.values is None:
            raise _Refused("an array without content")
        return value.values
    if isinstance(value, (_Name, _DType)):
        raise _Refused(f"a bare {type(value).__name__.strip('_').lower()} among the data")
    return value


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(_expect(value, str))


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value
