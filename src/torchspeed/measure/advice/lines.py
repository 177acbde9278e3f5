"""At which line of the user's a layer, or a field of the job, is written.

A layer's name is followed like a path: ``features.3.conv`` is the assignment to ``self.features`` in the class of the
model, the fourth argument of the ``nn.Sequential`` that stands there, and the assignment to ``self.conv`` in the class
of what that is. A call of a function or a method of the user's stands for the expression that it returns. Where the
trail ends (layers made in a loop) the last line found is the answer.
"""

import ast
import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from torchspeed.job import Job
from torchspeed.measure.advice.source import Node, Sources, called_name

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WRAPPERS = ("module", "_orig_mod")  # of DataParallel and its like; of torch.compile
_MOST_CALLS = 8  # functions that return what functions return


def layer_line(sources: Sources, model: nn.Module, factory: Any, name: str) -> str:
    """ "job.py:31" for the layer ``name`` of ``model``, which ``factory`` made; "" if it is not in the user's files."""
    owner: Any = model
    here = _made_by(sources, factory)
    found = here.place if here is not None else ""
    for part in name.split(".") if name else []:
        step = _assigned(sources, type(owner), part) or _argument(here, owner, part) or _in_init(sources, owner, part)
        if step is None and part in _WRAPPERS:
            step = here
        owner = getattr(owner, part)
        here = None if step is None else _returned(sources, step)
        found = found if step is None else step.place
    return found


def job_line(sources: Sources, job: Job, keyword: str) -> str:
    """The line of ``keyword=`` in the call of ``Job`` that made ``job``, or of that call; "" if it is not found.

    Where the argument is a name, the line that gives it its value: an assignment, or a default of the function.
    """
    call = _job_call(sources, job)
    if call is None:
        return ""
    argument = next((k for k in _keywords(call.syntax) if k.arg == keyword), None)
    if argument is None:
        return call.place
    if isinstance(argument.value, ast.Name):
        return (_given(sources, call, argument.value.id) or call.at(argument.value)).place
    return call.at(argument.value).place


def _job_call(sources: Sources, job: Job) -> Node | None:
    """Of several in the files, the one whose lines hold the job's own lambdas, or name its functions."""
    calls = list(sources.calls("Job"))
    fields = (job.model, job.optimizer, job.loss, job.step, job.schedule, job.train, job.valid)

    def belongs(call: Node) -> int:
        codes = [field.__code__ for field in fields if isinstance(field, types.FunctionType)]
        first, last = getattr(call.syntax, "lineno", 0), getattr(call.syntax, "end_lineno", 0)
        inside: int = sum(code.co_filename == call.file and first <= code.co_firstlineno <= last for code in codes)
        names = {getattr(field, "__name__", None) for field in fields} - {None, "<lambda>"}
        named = [k for k in _keywords(call.syntax) if isinstance(k.value, ast.Name) and k.value.id in names]
        return inside + len(named)

    return max(calls, key=belongs, default=None)


def _given(sources: Sources, call: Node, name: str) -> Node | None:
    """Where the function around ``call``, or its file, gives ``name`` its value."""
    whole = next(node for node in sources.files if node.file == call.file)
    around = [node for node in whole.walk((ast.FunctionDef, ast.AsyncFunctionDef)) if _holds(node.syntax, call.syntax)]
    for scope in (*reversed(around), whole):
        for node in scope.walk((ast.Assign, ast.AnnAssign)):
            targets = node.syntax.targets if isinstance(node.syntax, ast.Assign) else [node.syntax.target]  # type: ignore[attr-defined]
            if any(isinstance(t, ast.Name) and t.id == name for target in targets for t in ast.walk(target)):
                return node
        if isinstance(scope.syntax, ast.FunctionDef):
            arguments = scope.syntax.args
            for argument in (*arguments.args, *arguments.kwonlyargs):
                if argument.arg == name:
                    return scope.at(argument)
    return None


def _holds(outer: ast.AST, inner: ast.AST) -> bool:
    return any(node is inner for node in ast.walk(outer))


def _keywords(call: ast.AST) -> list[ast.keyword]:
    return call.keywords if isinstance(call, ast.Call) else []


def _made_by(sources: Sources, factory: Any) -> Node | None:
    """What the factory of the model returns, or the class that it is."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    node = sources.of(factory)
    return None if node is None else _returned(sources, _result(node) or node)


def _assigned(sources: Sources, owner: type, attribute: str) -> Node | None:
    """What ``self.attribute`` is set to in the class, or in one that it is made from."""
    for kind in owner.__mro__:
        definition = sources.of(kind)
        for node in definition.walk((ast.Assign, ast.AnnAssign)) if definition is not None else ():
            syntax: Any = node.syntax
            targets = syntax.targets if isinstance(syntax, ast.Assign) else [syntax.target]
            for target in targets:
                if syntax.value is not None and ast.unparse(target) == f"self.{attribute}":
                    return node.at(syntax.value)
    return None


def _argument(call: Node | None, owner: nn.Module, part: str) -> Node | None:
    """The argument of ``nn.Sequential(...)`` and its like that became the layer ``part``."""
    if call is None or not isinstance(call.syntax, ast.Call):
        return None
    arguments = call.syntax.args
    if part in _WRAPPERS and arguments:
        return call.at(arguments[0])
    if not isinstance(owner, _CONTAINERS):
        return None
    if len(arguments) == 1 and isinstance(arguments[0], (ast.List, ast.Tuple)):
        arguments = arguments[0].elts
    position = int(part) if part.isdigit() else len(arguments)
    if position < len(arguments) and not any(isinstance(a, ast.Starred) for a in arguments[: position + 1]):
        return call.at(arguments[position])
    for key, value in _pairs(arguments):
        if isinstance(key, ast.Constant) and key.value == part:
            return call.at(value)
    return None


def _pairs(arguments: list[ast.expr]) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """(key, value) of a dictionary, or of the pairs in ``OrderedDict([...])``."""
    for argument in arguments[:1]:
        if isinstance(argument, ast.Dict):
            yield from zip(argument.keys, argument.values, strict=True)
        elif called_name(argument) == "OrderedDict":
            yield from _pairs(argument.args)  # type: ignore[attr-defined]
    for element in arguments:
        if isinstance(element, ast.Tuple) and len(element.elts) == 2:
            yield element.elts[0], element.elts[1]


def _in_init(sources: Sources, owner: nn.Module, part: str) -> Node | None:
    """The argument of ``super().__init__(...)`` in a class that is itself a container."""
    for kind in type(owner).__mro__:
        definition = sources.of(kind)
        for node in definition.walk(ast.Call) if definition is not None else ():
            if called_name(node.syntax) == "__init__" and (found := _argument(node, owner, part)):
                return found
    return None


def _returned(sources: Sources, node: Node) -> Node:
    """``node``, or what the function of the user's that it calls returns."""
    for _ in range(_MOST_CALLS):
        name = called_name(node.syntax)
        function = node.scope.get(name)
        if isinstance(function, types.FunctionType):
            definition = sources.of(function)
        else:  # a method, known by its name alone
            whole = (file for file in sources.files if file.file == node.file)
            methods = (f for file in whole for f in file.walk(ast.FunctionDef) if f.syntax.name == name)  # type: ignore[attr-defined]
            definition = None if isinstance(function, type) else next(methods, None)
        result = None if definition is None else _result(definition)
        if result is None:
            break
        node = result
    return node


def _result(function: Node) -> Node | None:
    """The expression that a function or a lambda returns last; a name stands for what was assigned to it."""
    if isinstance(function.syntax, ast.Lambda):
        return function.at(function.syntax.body)
    values = [node.syntax.value for node in function.walk(ast.Return)]  # type: ignore[attr-defined]
    if not values or values[-1] is None or isinstance(function.syntax, ast.ClassDef):
        return None
    value = values[-1]
    if isinstance(value, ast.Name):
        for node in function.walk(ast.Assign):
            assigned: Any = node.syntax
            if any(isinstance(target, ast.Name) and target.id == value.id for target in assigned.targets):
                value = assigned.value
    return function.at(value)
