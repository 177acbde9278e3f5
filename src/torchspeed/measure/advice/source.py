"""The user's code as syntax trees: which files it lies in, and at which line something is written.

A finding without a line is a riddle. What the code *does* is known from live objects; where it is *written* is looked
up here, from the code objects of functions and classes, so that it works for a file imported under any name and for a
cell of a notebook (``linecache`` knows both). Nothing is executed.
"""

import ast
import functools
import inspect
import linecache
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from torchspeed.fingerprint import is_foreign

_OURS = "torchspeed"
_EXAMPLES = ("recipes", "models")  # of this package: read as if the user had written them
_MOST_FILES = 64

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class Node:
    """A piece of syntax, the file that it stands in, and the names that are global there."""

    file: str
    syntax: ast.AST
    scope: Mapping[str, Any]

    @property
    def place(self) -> str:
        return place(self.file, getattr(self.syntax, "lineno", 1))

    def at(self, syntax: ast.AST) -> "Node":
        return Node(self.file, syntax, self.scope)

    def walk(self, kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator["Node"]:
        """Nodes of that kind inside, in the order of their lines."""
        inside = [node for node in ast.walk(self.syntax) if isinstance(node, kind)]
        yield from (self.at(node) for node in sorted(inside, key=lambda node: getattr(node, "lineno", 0)))


def place(file: str, line: int) -> str:
    """ "job.py:31"; the path is relative where the file lies below the current directory."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}"


def is_users(thing: Any) -> bool:
    """True for modules, classes and functions that were not installed: code that the user can change."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    root, _, rest = str(name).partition(".")
    if root == _OURS:
        return rest.startswith(_EXAMPLES)
    return name is not None and not is_foreign(thing)


def is_users_frame(frame: types.FrameType) -> bool:
    return is_users(types.ModuleType(str(frame.f_globals.get("__name__"))))


def called_name(call: ast.AST) -> str:
    """ "Linear" of ``nn.Linear(...)``; "" for what is not a call of a name."""
    function = call.func if isinstance(call, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


class Sources:
    """The user's files that ``roots`` (functions, classes, objects) lie in or name, each parsed once."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self._nodes: dict[str, Node] = {}
        waiting = [code for root in roots for code in _code_of(root)]
        while waiting and len(self._nodes) < _MOST_FILES:
            scope, file = _home(waiting.pop(0))
            if file is not None and file not in self._nodes:
                linecache.checkcache(file)  # it may have been edited since somebody last asked
                lines = linecache.getlines(file, dict(scope))
                try:
                    self._nodes[file] = Node(file, ast.parse("".join(lines)), scope)
                except (SyntaxError, ValueError):
                    continue
                waiting += [value for value in scope.values() if _is_code(value) and is_users(value)]

    @property
    def files(self) -> tuple[Node, ...]:
        """Whole files; that of the first root comes first."""
        return tuple(self._nodes.values())

    def calls(self, *names: str) -> Iterator[Node]:
        """Calls of functions, classes and methods of these names, wherever the user wrote them."""
        for file in self.files:
            yield from (node for node in file.walk(ast.Call) if called_name(node.syntax) in names)

    def of(self, code: Any) -> Node | None:
        """The definition of a function, a lambda or a class of the user's."""
        code = inspect.unwrap(code) if callable(code) else code
        code = getattr(code, "__func__", code)
        if not _is_code(code):
            return None
        _, file = _home(code)
        whole = self._nodes.get(file or "")
        if whole is None:
            return None
        if isinstance(code, type):
            found = [node for node in whole.walk(ast.ClassDef) if getattr(node.syntax, "name", "") == code.__name__]
            return found[-1] if found else None
        line = code.__code__.co_firstlineno if isinstance(code, types.FunctionType) else 0
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        return next((node for node in whole.walk(kinds) if _first_line(node.syntax) == line), None)


def _first_line(function: ast.AST) -> int:
    decorators = getattr(function, "decorator_list", [])
    return int(min([getattr(function, "lineno", 0), *(decorator.lineno for decorator in decorators)]))


def _is_code(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, type, types.ModuleType))


def _code_of(thing: Any) -> Iterator[Any]:
    """The functions and classes behind a callable or an object, the user's alone."""
    if isinstance(thing, functools.partial):
        for part in (thing.func, *thing.args, *thing.keywords.values()):
            yield from _code_of(part)
        return
    thing = getattr(thing, "__func__", thing)
    if not _is_code(thing):
        inner = getattr(thing, "__dict__", {})
        held = [value for value in inner.values() if _is_code(value) or callable(value)]
        for part in [] if isinstance(thing, nn.Module) else held:
            yield from (code for code in (part, type(part)) if _is_code(code) and is_users(code))
        thing = type(thing)
    if is_users(thing):
        yield thing


def _home(code: Any) -> tuple[Mapping[str, Any], str | None]:
    """(the globals of the file, its name). A class is where its methods are, whatever its module is called."""
    if isinstance(code, types.FunctionType):
        return code.__globals__, code.__code__.co_filename
    if isinstance(code, types.ModuleType):
        return vars(code), getattr(code, "__file__", None)
    for member in vars(code).values():
        member = getattr(member, "__func__", member)
        if isinstance(member, types.FunctionType) and member.__module__ == code.__module__:
            return member.__globals__, member.__code__.co_filename
    module = sys.modules.get(code.__module__)
    return (vars(module), getattr(module, "__file__", None)) if module is not None else ({}, None)
