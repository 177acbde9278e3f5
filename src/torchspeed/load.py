"""From what a user types (``job.py``, ``job.py:name``, ``package.module:name``, a recipe's name) to a ``Job``."""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torchspeed.engine.build import seed_everything
from torchspeed.engine.locate import raised_at
from torchspeed.errors import JobError, TorchspeedError
from torchspeed.job import Job
from torchspeed.recipes import RECIPES

DEFAULT_NAME = "job"
OVERRIDES = ("data", "epochs", "seed", "batch_size", "stop_at_goal")


def load_job(reference: str, **overrides: Any) -> Job:
    """The job that ``reference`` names, with overrides.

    overrides: ``data``, ``epochs``, ``seed``, ``batch_size``, ``stop_at_goal``; None means not given. An override goes
    to the job's function where that takes it by name (so that a schedule can follow from the epochs), or else into the
    field of that name. Raises JobError saying which file, function or argument is at fault.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    seed_everything(given.get("seed", 0))  # what the file draws is then the same when the run is resumed
    module, name, place = _module(reference)
    if not hasattr(module, name):
        functions = sorted(
            k for k, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__
        )
        raise JobError(f"{place}: has no {name!r}; it defines: {', '.join(functions) or 'no function'}")
    made, rest = _call(getattr(module, name), given, f"{place}: {name}()")
    if not isinstance(made, Job):
        raise JobError(f"{place}: {name}() returned a {type(made).__name__}, not a torchspeed.Job")
    if "data" in rest:
        raise JobError(f"{place}: {name}() takes no data=, so --data has no meaning for this job")
    if made.name == DEFAULT_NAME:
        rest = {"name": Path(place).stem if place.endswith(".py") else place.rpartition(".")[2], **rest}
    return dataclasses.replace(made, **rest)


def plan_beside(reference: str) -> Path | None:
    """The plan that lies beside the job's file, ``NAME.plan.toml`` for ``NAME.py``, if there is one."""
    file = _file(reference)
    if file is None:
        name = RECIPES.get(reference, reference.partition(":")[0])
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # a package that does not import: load_job says so
            return None
        if spec is None or spec.origin is None:
            return None
        file = Path(spec.origin)
    plan = file.with_suffix(".plan.toml")
    return plan if plan.is_file() else None


def _file(reference: str) -> Path | None:
    """The path in ``path.py`` or ``path.py:name``."""
    path, colon, name = reference.rpartition(":")
    if colon and path.endswith(".py") and name.isidentifier():
        return Path(path)
    return Path(reference) if reference.endswith(".py") else None


def _module(reference: str) -> tuple[ModuleType, str, str]:
    file = _file(reference)
    if file is not None:
        name = reference.rpartition(":")[2] if not reference.endswith(".py") else DEFAULT_NAME
        return _run_file(file), name, str(file)
    if reference in RECIPES:
        return importlib.import_module(RECIPES[reference]), DEFAULT_NAME, RECIPES[reference]
    place, colon, name = reference.partition(":")
    if not colon:
        raise JobError(
            f"no recipe {reference!r}; recipes: {', '.join(sorted(RECIPES))}; "
            "or give a file (job.py, job.py:name) or package.module:name"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(place), name or DEFAULT_NAME, place
    except ModuleNotFoundError as error:
        raise JobError(f"{place}: {error}; is it installed, or in the current directory?") from error
    except Exception as error:
        raise _raised(error, place, "importing it") from error


def _run_file(path: Path) -> ModuleType:
    """Import a file as python would run it: its directory is searched for its own imports."""
    if not path.is_file():
        raise JobError(f"{path}: no such file")
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"_job_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # worker processes and fingerprints look it up by name
    if str(path.parent.absolute()) not in sys.path:
        sys.path.insert(0, str(path.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    except TorchspeedError:
        raise
    except (Exception, SystemExit) as error:
        raise _raised(error, str(path), "running it") from error
    return module


def _call(target: Any, given: dict[str, Any], what: str) -> tuple[Any, dict[str, Any]]:
    """``target`` called with those of ``given`` that it takes by name; and the rest."""
    if not inspect.isroutine(target) or inspect.isclass(target):
        return target, given
    parameters = inspect.signature(target).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {name: value for name, value in given.items() if takes_all or name in parameters}
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.kind < 2 and p.name not in taken]
    if missing:
        options = [f"--{name.replace('_', '-')}" for name in missing if name in OVERRIDES]
        way_out = f"give {', '.join(options)}, or a default" if len(options) == len(missing) else "give a default"
        raise JobError(f"{what} needs {', '.join(missing)}; {way_out} in the file")
    try:
        return target(**taken), {name: value for name, value in given.items() if name not in taken}
    except TorchspeedError:
        raise
    except (Exception, SystemExit) as error:
        raise _raised(error, what, "calling it") from error


def _raised(error: BaseException, place: str, doing: str) -> JobError:
    where = raised_at(error) or f"{place}: "
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}: "
    return JobError(f"{where}{doing} raised {type(error).__name__}: {error}")
