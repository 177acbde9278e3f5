"""A step that asks the device for a value, and waits for it.

A GPU is given work ahead of time: Python runs on while kernels are queued. ``.item()``, ``.cpu()``, ``.numpy()``,
``float(x)``, ``if x:`` and ``print(x)`` need the value now, so Python waits until all that was queued is done, and the
GPU then waits for Python to queue the next. On a CPU there is no queue; the call costs a microsecond, and still cuts
what ``torch.compile`` can take as one piece.
Source: https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html ("Avoid unnecessary CPU-GPU
synchronization").
"""

import ast
from collections import Counter
from collections.abc import Iterator

from torchspeed.measure.advice.source import Node
from torchspeed.measure.advice.subject import Advice, Subject, by_place
from torchspeed.measure.advice.trace import SYNCS

_SPOKEN = {
    "__float__": "float()",
    "__int__": "int()",
    "__index__": "int()",
    "__bool__": "if",
    "__array__": "numpy",
    "__repr__": "print",
    "__format__": "a format string",
}


def host_sync(subject: Subject) -> Iterator[Advice]:
    seldom = _now_and_then(subject)
    asked = [
        (call.place, "to('cpu')" if call.op == "to" else _SPOKEN.get(call.op, f".{call.op}()"))
        for call in subject.trace.calls
        if call.by_user and (call.op in SYNCS or (call.op == "to" and _to_cpu(call.arguments)))
    ]
    printed = [(node.place, "print") for node in _prints(subject)]
    known = {place for place, _ in asked}
    for place, ways in by_place([*asked, *(each for each in printed if each[0] not in known)]).items():
        if place in seldom:
            continue
        times = sum(Counter(ways).values())
        queued = subject.shares.get("forward")
        on_gpu = "the GPU runs dry while Python catches up" + (
            f"; the forward pass, {queued:.0%} of the step, cannot be queued ahead" if queued else ""
        )
        yield Advice(
            "host_sync",
            place,
            f"{' and '.join(dict.fromkeys(ways))} in the step, {times} time{'s' * (times != 1)}",
            on_gpu
            if subject.machine.device == "cuda"
            else "nearly free on a CPU; on a GPU it waits for all work that was queued",
            "keep values as tensors on their device and look at them every hundred steps; the loss is recorded anyway",
        )


def _to_cpu(arguments: tuple[object, ...]) -> bool:
    return any(str(argument) == "cpu" for argument in arguments[1:])


def _steps(subject: Subject) -> Iterator[Node]:
    """The functions of the user's that run in every step."""
    kinds = {type(module) for module in subject.run.model.modules()}
    codes = [subject.job.step, subject.job.loss, *(kind.forward for kind in kinds if "forward" in vars(kind))]
    codes += [vars(type(code)).get("forward") or vars(type(code)).get("__call__") for code in codes[:2]]
    for code in codes:
        node = None if code is None else subject.sources.of(code)
        if node is not None and not isinstance(node.syntax, ast.ClassDef):
            yield node


def _prints(subject: Subject) -> Iterator[Node]:
    """Calls of ``print`` that are under no condition."""
    for step in _steps(subject):
        conditional = {id(inner) for node in step.walk((ast.If, ast.IfExp)) for inner in ast.walk(node.syntax)}
        for call in step.walk(ast.Call):
            name = getattr(call.syntax, "func", None)
            if isinstance(name, ast.Name) and name.id == "print" and id(call.syntax) not in conditional:
                yield call


def _now_and_then(subject: Subject) -> set[str]:
    """Lines under an ``if step % 100 == 0``: the first step is no measure of those."""
    return {
        inner.place
        for file in subject.sources.files
        for condition in file.walk(ast.If)
        if any(isinstance(node, ast.Mod) for node in ast.walk(condition.syntax.test))  # type: ignore[attr-defined]
        for inner in condition.walk(ast.expr)
    }
