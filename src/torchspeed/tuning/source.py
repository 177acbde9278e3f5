"""A job on its way into fresh processes.

A job holds functions of the user's: classes of a script that is being run, lambdas, closures over data. cloudpickle
sends those by value. A job from the command line is named instead, and each process runs its file again, as ``train``
would. Nothing but our own processes, on this machine, a moment later, ever reads the file.
"""

import pickle
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from torchspeed.errors import JobError
from torchspeed.fingerprint import is_foreign
from torchspeed.job import Job

Source = Job | Callable[[], Job]


def write_source(source: Source, path: Path) -> None:
    """Raises JobError that names the field of the job which cannot be sent, and the way out."""
    with ExitStack() as stack:
        for module in _modules_of_the_user(source):
            cloudpickle.register_pickle_by_value(module)
            stack.callback(cloudpickle.unregister_pickle_by_value, module)
        try:
            path.write_bytes(cloudpickle.dumps(source, protocol=pickle.HIGHEST_PROTOCOL))
        except Exception as error:
            raise JobError(_why(source, error)) from error


def _why(source: Source, error: Exception) -> str:
    what = "the job"
    if isinstance(source, Job):
        for field in fields(source):
            try:
                cloudpickle.dumps(getattr(source, field.name))
            except Exception as own:
                what, error = f"job {source.name!r}: {field.name}", own
                break
    return (
        f"{what} cannot be sent to a fresh process ({type(error).__name__}: {str(error).splitlines()[0]}); nothing was "
        "tried. Make it where it is used (train= and valid= may be functions that make the data, model= is one), or "
        "put the job into a file and run: torchspeed tune job.py"
    )


def _modules_of_the_user(source: Source) -> list[ModuleType]:
    """Modules that a fresh process might not find: those of the job's own functions and classes."""
    values: list[Any] = [getattr(source, field.name) for field in fields(source)] if isinstance(source, Job) else []
    homes = {getattr(thing, "__module__", None) for value in values for thing in (value, type(value))}
    modules = [sys.modules[home] for home in homes if isinstance(home, str) and home in sys.modules]
    return [m for m in modules if m.__name__ != "__main__" and not _is_ours(m) and not is_foreign(m)]


def _is_ours(module: ModuleType) -> bool:
    return module.__name__.split(".")[0] == "torchspeed"
