"""The command line: parses arguments, calls the function of the same name, renders what it returns.

PyTorch is not imported before a command needs it (``torchspeed`` loads its names on first use), so ``--help`` is quick
and levers that act on a process before PyTorch is loaded can still act on this one.
"""

import functools
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

import torchspeed
from torchspeed.errors import PlanError, StorageError, TorchspeedError

app = typer.Typer(
    name="torchspeed",
    help="EXPLAIN ANALYZE for PyTorch training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"torchspeed {version('torchspeed')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """EXPLAIN ANALYZE for PyTorch training."""


@app.command()
def explain(
    job: Annotated[str, typer.Argument(metavar="JOB", help="job.py, job.py:name, package.module:name, or a recipe.")],
    data: Annotated[str | None, typer.Option(help="Folder or file that the job reads its data from.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan (TOML). Default: JOB.plan.toml beside the job.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="lever=option, over the plan. Repeatable.")] = None,
    as_written: Annotated[bool, typer.Option("--as-written", help="No plan, even if one is beside the job.")] = False,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu. Default: the first that is there.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to time. Default: some seconds of them.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Also write a trace of some steps, for Perfetto.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Say where the time of a step of JOB goes, what the limit is, and what to try first."""
    reference = {"job": _absolute(job), "data": data and os.path.abspath(data)}
    trace = None if trace is None else trace.absolute()  # the job may change the directory
    with _interruptible(), redirect_stdout(sys.stderr):  # the job prints too, and stdout is for the answer
        chosen, notes = _plan(job, plan, set_ or [], as_written)
        _ensure_process(chosen, device)
        loaded = _load(reference)
        found = torchspeed.explain(loaded, chosen, device=device, steps=steps, trace=trace, progress=not json_)
    typer.echo(json.dumps(found.as_dict(), allow_nan=False) if json_ else "\n".join([*notes, str(found)]))
    if trace is not None:
        typer.echo(f"trace written: {trace}; open it in ui.perfetto.dev or chrome://tracing", err=True)


@app.command()
def tune(
    job: Annotated[str, typer.Argument(metavar="JOB", help="job.py, job.py:name, package.module:name, or a recipe.")],
    data: Annotated[str | None, typer.Option(help="Folder or file that the job reads its data from.")] = None,
    budget: Annotated[str, typer.Option(help="Wall-clock time to spend: 90s, 5m, 1h.")] = "5m",
    out: Annotated[Path | None, typer.Option(help="Write the plan here (TOML), its evidence in comments.")] = None,
    lever: Annotated[list[str] | None, typer.Option(help="Try this one only. Repeatable. Default: all.")] = None,
    memory: Annotated[str | None, typer.Option(help="The most that a plan may use, such as 8GiB.")] = None,
    largest_batch: Annotated[
        bool, typer.Option("--largest-batch", help="Instead: the largest batch that fits (budget: its own).")
    ] = False,
    fastest_batch: Annotated[
        bool, typer.Option("--fastest-batch", help="Instead: the batch of best throughput (budget: its own).")
    ] = False,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that share that batch.")] = 1,
    plan: Annotated[Path | None, typer.Option(help="The plan (TOML) that batch sizes are run with.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per optimizer step.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu. Default: the first that is there.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was tuned before.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")] = False,
) -> None:
    """Find the plan that is fastest for JOB on this machine and still right, with a proof for each lever."""
    path = data and os.path.abspath(data)
    reference: dict[str, Any] = {"job": _absolute(job), "data": path, "epochs": epochs, "batch_size": batch_size}
    if largest_batch or fastest_batch:
        asked = [torchspeed.largest_batch] * largest_batch + [torchspeed.fastest_batch] * fastest_batch
        given = {"--out": out, "--lever": lever, "--fresh": fresh}
        _leave_out(given, "batch sizes are reported and not written into a plan")
        start = None if plan is None else torchspeed.Plan.read(plan)
        _batch_sizes(asked, reference, json_, plan=start, budget=budget, device=device, memory=memory, ranks=ranks)
        return
    _leave_out({"--ranks": ranks > 1, "--plan": plan}, "they are for --largest-batch and --fastest-batch")
    if out is not None:
        out = out.absolute()  # the job may change the directory
        _check_writable(out)
    with _interruptible(), redirect_stdout(sys.stderr):
        tuning = _tune(reference, budget, device=device, levers=lever, memory=memory, fresh=fresh)
    if out is not None:
        _write(out, tuning.to_toml())
    typer.echo(json.dumps(tuning.as_dict(), indent=2) if json_ else str(tuning))
    if out is not None and not json_:
        typer.echo(f"written: {out}; torchspeed train {job} --plan {out}")


@app.command()
def train(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB",
            help="job.py, job.py:name, package.module:name, or a recipe: digits, cifar10, characters, spoken-digits.",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder or file that the job reads its data from.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan (TOML). Default: JOB.plan.toml beside the job.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="lever=option, over the plan. Repeatable.")] = None,
    tune: Annotated[
        str | None, typer.Option(metavar="BUDGET", help="Tune first, for 90s, 5m, 1h, and use that.")
    ] = None,
    as_written: Annotated[bool, typer.Option("--as-written", help="No plan, even if one is beside the job.")] = False,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept. Default: runs/NAME-DATE-TIME.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per optimizer step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of order, augmentation and weights.")] = None,
    stop_at_goal: Annotated[bool, typer.Option("--stop-at-goal", help="End as soon as the goal is reached.")] = False,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu. Default: the first that is there.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that ended early.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps. Default: every 30 seconds.")] = None,
    log_every: Annotated[int | None, typer.Option(min=1, help="Steps. Default: about 200 lines in all.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Train JOB with a plan; the run directory holds what was run, what happened, and the state to go on from."""
    asked = {
        "data": data and os.path.abspath(data),
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "stop_at_goal": stop_at_goal or None,
    }
    if resume is not None:
        given = {
            "JOB": job,
            "--plan": plan,
            "--set": set_,
            "--run-dir": run_dir,
            "--as-written": as_written,
            "--tune": tune,
            **asked,
        }
        extra = [name for name, value in given.items() if value is not None and value is not False]
        if extra:
            raise PlanError(f"--resume goes on with the run as it was; leave out {', '.join(extra)}")
        directory = torchspeed.RunDirectory.existing(resume)
        reference = directory.read_reference()
        if not reference.get("job"):
            raise PlanError(
                f"{resume}: was started from Python, not from a named job; use torchspeed.train(job, resume=…)"
            )
        _ensure_process(torchspeed.Plan.read(directory.plan), device)
        torchspeed.train(
            _load(reference),
            resume=resume,
            device=device,
            checkpoint_every=checkpoint_every,
            log_every=log_every,
            progress=not quiet,
        )
        return
    if job is None:
        raise PlanError("train needs a JOB (or --resume RUN); see torchspeed train --help")
    reference = {"job": _absolute(job), **asked}
    if tune is None:
        chosen, notes = _plan(job, plan, set_ or [], as_written)
        _ensure_process(chosen, device)
    else:
        if plan is not None or set_ or as_written:
            raise PlanError("--tune finds the plan itself; leave out --plan, --set and --as-written")
        chosen, notes = _tuned(reference, tune, device, quiet), ["tuned before this run"]
    torchspeed.train(
        _load(reference),
        chosen,
        run_dir=run_dir,
        device=device,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        progress=not quiet,
        reference=reference,
        notes=notes,
    )


def _tune(reference: dict[str, Any], budget: str, **options: Any) -> Any:
    """Tune a job by its name: each trial loads it anew, as ``train`` would."""
    job, source = _load(reference), functools.partial(_load, reference)
    with _exit_on_sigterm():
        return torchspeed.tune(
            job, budget=budget, source=source, say=lambda line: typer.echo(line, err=True), **options
        )


def _batch_sizes(asked: list[Any], reference: dict[str, Any], as_json: bool, **options: Any) -> None:
    """Ask about the batch size of a job by its name, and print the answers; each question has the whole budget."""
    with _interruptible(), redirect_stdout(sys.stderr):
        job, source = _load(reference), functools.partial(_load, reference)
        with _exit_on_sigterm():
            answers = {
                question.__name__: question(job, source=source, say=lambda line: typer.echo(line, err=True), **options)
                for question in asked
            }
    if as_json:
        typer.echo(json.dumps({name: answer.as_dict() for name, answer in answers.items()}, indent=2))
    else:
        typer.echo("\n\n".join(str(answer) for answer in answers.values()))


def _leave_out(given: dict[str, Any], why: str) -> None:
    """Raise PlanError if any of the options was given."""
    extra = [name for name, value in given.items() if value is not None and value is not False and value != []]
    if extra:
        raise PlanError(f"leave out {', '.join(extra)}: {why}")


def _tuned(reference: dict[str, Any], budget: str, device: str | None, quiet: bool) -> Any:
    """The plan that tuning finds; this process starts over with that plan if it needs other variables."""
    with _interruptible():
        tuning = _tune(reference, budget, device=device)
    if not quiet:
        typer.echo(str(tuning))
    arguments = [text for text in sys.argv[1:] if not text.startswith("--tune=")]
    if "--tune" in arguments:
        place = arguments.index("--tune")
        del arguments[place : place + 2]
    settings = [text for name, option in tuning.plan.options for text in ("--set", f"{name}={json.dumps(option)}")]
    _ensure_process(tuning.plan, device, [*arguments, "--as-written", *settings])
    return tuning.plan


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is one line and exit code 130, as of a shell command."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was kept", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM unwinds the stack and exits with code 143, so that what a tuning has on disk is removed.

    Not while a job is loaded: there a SystemExit is taken for one of the job's own.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the removal half-way
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_writable(path: Path) -> None:
    """Raise now what would be raised when the tuning has been paid for; leaves nothing behind."""
    try:
        if not path.absolute().parent.is_dir():
            raise PlanError(f"--out {path}: there is no folder {path.absolute().parent}; make it first")
        existed = path.exists()
        path.open("a").close()
        if not existed:
            os.unlink(os.path.realpath(path))
    except OSError as error:
        raise StorageError(f"--out {path}: cannot be written: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def main() -> None:
    """Entry point: errors of ours are one line and an exit code; others keep their traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "≥" gets "?"
    try:
        app()
    except TorchspeedError as error:
        typer.echo(f"torchspeed: {error}", err=True)
        sys.exit(error.exit_code)


def _plan(job: str, path: Path | None, assignments: list[str], as_written: bool) -> tuple[Any, list[str]]:
    """The plan to train with, and the sentence that says where it is from."""
    if path is not None and as_written:
        raise PlanError("--plan and --as-written exclude each other; give one of them")
    notes = []
    if path is None and not as_written:
        path = torchspeed.plan_beside(job)
        if path is not None:
            notes = [f"using {path.name}, which lies beside the job (--as-written leaves it out)"]
    plan = torchspeed.Plan() if path is None else torchspeed.Plan.read(path)
    return plan.set(assignments), notes


def _load(reference: dict[str, Any]) -> Any:
    overrides = {name: value for name, value in reference.items() if name != "job"}
    return torchspeed.load_job(reference["job"], **overrides)


def _absolute(job: str) -> str:
    """A file's reference that still holds from another directory."""
    head, colon, name = job.rpartition(":")
    path, suffix = (head, f":{name}") if colon and head.endswith(".py") else (job, "")
    return os.path.abspath(path) + suffix if path.endswith(".py") else job


def _ensure_process(plan: Any, device: str | None, arguments: list[str] | None = None) -> None:
    """Start over with the environment that the plan's PROCESS levers want, unless this process has it.

    ``python -m`` searches the working directory before the standard library, the ``torchspeed`` command does not (nor
    may it: a queue.py beside the job would be imported in the place of Python's). The new process does as this one.

    arguments: of the command to start, if they are to be others than this one's.
    """
    wanted = torchspeed.process_environment(plan, torchspeed.Machine.detect(device)) if plan.options else {}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        as_module = getattr(sys.modules["__main__"], "__spec__", None) is not None and not sys.flags.safe_path
        python = [sys.executable] if as_module else [sys.executable, "-P"]
        command = [*python, "-m", "torchspeed", *(sys.argv[1:] if arguments is None else arguments)]
        os.execve(sys.executable, command, {**os.environ, **wanted})
