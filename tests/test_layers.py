"""Imports point down only, and in no circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "torchspeed"

# From the bottom up; a module may import its own row and the rows before it.
LAYERS = [
    ["errors", "durable"],
    ["fingerprint"],
    ["machine", "batch", "job", "plan", "measurement", "run", "facts", "lever"],
    ["data", "models", "optim", "parallel"],
    ["levers"],
    ["engine"],
    ["measure"],
    ["attach"],
    ["tuning", "search"],
    ["report"],
    ["recipes"],
    ["load"],
    ["cli"],
    ["__main__"],
]
PILLARS = {"data", "models", "optim", "parallel"}
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, as dotted names without the package's own."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchspeed."):
            home = node.module.removeprefix("torchspeed.")
            for alias in node.names:
                submodule = PACKAGE.joinpath(*home.split("."), f"{alias.name}.py").exists()
                found.add(f"{home}.{alias.name}" if submodule else home)
        elif isinstance(node, ast.ImportFrom) and node.module == "torchspeed":
            found.update(alias.name for alias in node.names if alias.name in RANK)
        elif isinstance(node, ast.Import):
            found.update(a.name.removeprefix("torchspeed.") for a in node.names if a.name.startswith("torchspeed."))
    return found


def modules() -> dict[str, Path]:
    files = (path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def upward(module: str, imported: set[str]) -> list[str]:
    """What ``module`` must not import: higher layers, other pillars, other levers."""
    top = module.split(".")[0]
    wrong = []
    for target in sorted(imported):
        other = target.split(".")[0]
        if RANK[other] > RANK[top] or (top in PILLARS and other in PILLARS and top != other):
            wrong.append(target)
        if top == other == "levers" and module != "levers":
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module: str) -> None:
    assert module.split(".")[0] in RANK, "a new layer: give it its row in LAYERS"
    assert upward(module, imports(modules()[module])) == []


def test_no_circles() -> None:
    graph = {name: {t for t in imports(path) if t in modules()} for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail, name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_an_upward_arrow_is_seen() -> None:
    assert upward("data.loader", {"engine.loop"}) == ["engine.loop"]
    assert upward("data.loader", {"optim"}) == ["optim"]
    assert upward("levers.hardware.threads", {"levers.hardware.precision"}) == ["levers.hardware.precision"]
    assert upward("engine.loop", {"optim", "job"}) == []


def test_own_modules_are_imported_at_the_top() -> None:
    """A function-local import of the package itself hides a circle."""
    for path in modules().values():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for node in ast.walk(function):
                    assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchspeed")), path
