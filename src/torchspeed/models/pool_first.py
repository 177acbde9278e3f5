"""``pool(activation(x))`` written as ``activation(pool(x))``, in Sequentials and in the source of a ``forward``.

A ``forward`` is rewritten as text is: its file is parsed, the two calls change places, and the function is compiled
anew, with the globals, the closure, the file name and the line numbers of the original, so that loops, conditions,
``self.training`` and tracebacks stay what they are. (A traced graph would freeze all of these.) A function whose source
does not compile to the very code that runs, such as one that was decorated or edited since, is left alone.
"""

import ast
import builtins
import functools
import inspect
from collections.abc import Callable
from functools import reduce
from types import CodeType, FunctionType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchspeed.models.rewrite import Forward, is_as_written, set_forward

# Where these are flat, their gradient is zero: which of several equal inputs the pool picks then makes no difference.
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
_IN_PLACE_FUNCTIONS = (F.relu_, torch.relu_, F.hardtanh_)
_ACTIVATION_FUNCTIONS = (F.relu, torch.relu, F.relu6, F.hardtanh, *_IN_PLACE_FUNCTIONS)
_POOL_FUNCTIONS = (
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d),
    *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
)


def pool_first(model: nn.Module) -> int:
    """Make every module of ``model`` pool before it activates, in place; how many pairs changed places."""
    changed = 0
    for module in model.modules():
        if "forward" in module.__dict__:
            continue
        is_list = type(module).forward is nn.Sequential.forward
        forward, pairs = _reordered(module) if is_list else _rewritten(module)
        if forward is not None:
            set_forward(module, forward)
            changed += pairs
    return changed


def _reordered(sequential: nn.Module) -> tuple[Forward | None, int]:
    """``forward`` of ``sequential`` with pool and activation in their new order, and how many such pairs it has."""
    written = tuple(sequential._modules)
    order = list(written)
    for i in range(1, len(order)):
        first, second = sequential._modules[order[i - 1]], sequential._modules[order[i]]
        # An activation in place at the head of the list writes to what the caller may still hold.
        kept = i == 1 and getattr(first, "inplace", False)
        if _is_activation(first) and _is_pool(second) and not kept:
            order[i - 1], order[i] = order[i], order[i - 1]

    def forward(self: nn.Sequential, input: Any) -> Any:
        modules = self._modules
        for name in order if tuple(modules) == written else modules:
            input = modules[name](input)
        return input

    pairs = sum(one != other for one, other in zip(order, written, strict=True)) // 2
    return (forward if pairs else None), pairs


def _is_activation(module: Any) -> bool:
    return type(module) in _ACTIVATIONS and is_as_written(module)


def _is_pool(module: Any) -> bool:
    return type(module) in _POOLS and is_as_written(module) and not module.return_indices


def _rewritten(module: nn.Module) -> tuple[Forward | None, int]:
    """``forward`` of ``module`` with pool and activation in their new order, and how many such pairs it has."""
    function = type(module).forward
    if not isinstance(function, FunctionType) or not _may_pool(module, function):
        return None, 0
    try:
        lines, _ = inspect.findsource(function)
        tree = ast.parse("".join(lines))
    except (OSError, SyntaxError):
        return None, 0
    definition = next((node for node in ast.walk(tree) if _defines(node, function.__code__)), None)
    # Neither a decorator's wrapper nor a file that was edited since it was loaded has the code that runs.
    if definition is None or function.__code__ not in _functions_of(tree, function):
        return None, 0
    exchange = _Exchange(_Names(module, function, definition))
    exchange.generic_visit(definition)
    if not exchange.pairs:
        return None, 0
    place = function.__code__.co_qualname, function.__code__.co_firstlineno
    code = next(code for code in _functions_of(tree, function) if (code.co_qualname, code.co_firstlineno) == place)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(made, function, updated=()), exchange.pairs


def _may_pool(module: nn.Module, function: FunctionType) -> bool:
    """Whether it is worth reading the file."""
    names = function.__code__.co_names
    functions = ("max_pool" in name or _is_one_of(function.__globals__.get(name), _POOL_FUNCTIONS) for name in names)
    return any(map(_is_pool, module.children())) or any(functions)


def _defines(node: ast.AST, code: CodeType) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and (node.name, node.lineno) == (code.co_name, code.co_firstlineno)


def _functions_of(tree: ast.Module, function: FunctionType) -> list[CodeType]:
    """The code of everything that ``tree``, the file of ``function``, defines. Nothing of it is run."""
    found = [compile(ast.fix_missing_locations(tree), function.__code__.co_filename, "exec", dont_inherit=True)]
    for code in found:
        found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found


class _Names:
    """What the names in a ``forward`` stand for, where that is certain."""

    def __init__(self, module: nn.Module, function: FunctionType, definition: ast.FunctionDef) -> None:
        code = function.__code__
        stored = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        self.local = {*code.co_varnames, *code.co_cellvars, *stored}
        self.self_name = code.co_varnames[0] if code.co_argcount and code.co_varnames[0] not in stored else None
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        free = {name: cell.cell_contents for name, cell in cells if name != "__class__"}
        self.outside = {**vars(builtins), **function.__globals__, **free}
        self.module = module

    def __getitem__(self, expression: ast.expr) -> Any:
        """The object that ``expression`` stands for, or None."""
        path: list[str] = []
        while isinstance(expression, ast.Attribute):
            path.insert(0, expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return None
        if expression.id == self.self_name:
            root: Any = self.module
        elif expression.id in self.local:
            return None
        else:
            root = self.outside.get(expression.id)
        return reduce(lambda value, name: getattr(value, name, None), path, root)


class _Exchange(ast.NodeTransformer):
    """Puts the pool inside the activation, in nested calls and in assignments that follow each other."""

    def __init__(self, names: _Names) -> None:
        self.names = names
        self.pairs = 0

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return self.exchanged(node, fresh=False) or node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, self.joined(statements))
        return node

    def joined(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """``x = activation(y); x = pool(x)`` as ``x = activation(pool(y))``."""
        done: list[ast.stmt] = []
        for statement in statements:
            call, before = _assigned_call(statement), _assigned_call(done[-1]) if done else None
            if call is not None and before is not None and _reads_only(call, before[0]) and call[0] == before[0]:
                whole = ast.copy_location(
                    ast.Call(call[1].func, [before[1], *call[1].args[1:]], call[1].keywords), call[1]
                )
                earlier = _assigned_call(done[-2]) if len(done) > 1 else None
                fresh = earlier is not None and _is_name(_operand(before[1]), earlier[0])
                if (exchanged := self.exchanged(whole, fresh)) is not None:
                    done[-1] = ast.copy_location(ast.Assign([ast.Name(call[0], ast.Store())], exchanged), statement)
                    continue
            done.append(statement)
        return done

    def exchanged(self, pool: ast.Call, fresh: bool) -> ast.Call | None:
        """``activation(pool(x))`` for ``pool(activation(x))``; None where it is something else, or where an activation
        in place would write to an x that is read elsewhere (``fresh``: it is known that it is not)."""
        activation = pool.args[0] if pool.args else None
        if not isinstance(activation, ast.Call) or not self.is_pool(pool):
            return None
        found = self.activation(activation)
        if found is None:
            return None
        operand, in_place = found
        if in_place and not (fresh or isinstance(operand, ast.Call)):
            return None
        self.pairs += 1
        inner = ast.copy_location(ast.Call(pool.func, [operand, *pool.args[1:]], pool.keywords), pool)
        if isinstance(activation.func, ast.Attribute) and not activation.args:
            method = ast.copy_location(ast.Attribute(inner, activation.func.attr, ast.Load()), activation)
            return ast.copy_location(ast.Call(method, [], []), activation)
        arguments = [inner, *activation.args[1:]]
        return ast.copy_location(ast.Call(activation.func, arguments, activation.keywords), activation)

    def is_pool(self, call: ast.Call) -> bool:
        target = self.names[call.func]
        if isinstance(target, nn.Module):
            return _is_pool(target) and len(call.args) == 1 and not call.keywords
        plain = not any(k.arg in (None, "return_indices") for k in call.keywords) and len(call.args) < 6
        return _is_one_of(target, _POOL_FUNCTIONS) and plain

    def activation(self, call: ast.Call) -> tuple[ast.expr, bool] | None:
        """(its operand, whether it may write to it); None for any other call."""
        function = call.func
        if isinstance(function, ast.Attribute) and function.attr in ("relu", "relu_") and not call.args:
            return None if call.keywords else (function.value, function.attr == "relu_")
        if not call.args or isinstance(call.args[0], ast.Starred):
            return None
        target = self.names[function]
        if isinstance(target, nn.Module):
            if not _is_activation(target) or len(call.args) > 1 or call.keywords:
                return None
            return call.args[0], bool(getattr(target, "inplace", False))
        if not _is_one_of(target, _ACTIVATION_FUNCTIONS):
            return None
        simple = len(call.args) == 1 and not call.keywords
        return call.args[0], not simple or _is_one_of(target, _IN_PLACE_FUNCTIONS)


def _assigned_call(statement: ast.stmt) -> tuple[str, ast.Call] | None:
    """(name, call) of ``name = call(...)``."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.value, ast.Call):
        target = statement.targets[0]
        if isinstance(target, ast.Name):
            return target.id, statement.value
    return None


def _reads_only(call: tuple[str, ast.Call], name: str) -> bool:
    """Whether the first argument of ``call`` is ``name``, and nothing else in it reads that name."""
    node = call[1]
    if not node.args or not _is_name(node.args[0], name):
        return False
    rest = (node.func, *node.args[1:], *node.keywords)
    return not any(_is_name(child, name) for part in rest for child in ast.walk(part))


def _operand(call: ast.Call) -> ast.expr | None:
    if call.args:
        return call.args[0]
    return call.func.value if isinstance(call.func, ast.Attribute) else None


def _is_name(node: ast.AST | None, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_one_of(target: Any, functions: tuple[Callable[..., Tensor], ...]) -> bool:
    return any(target is function for function in functions)
