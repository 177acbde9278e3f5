"""The verb ``train``: a job and a plan in, a trained model and a run directory out; resumable bit for bit."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from torchspeed.engine import checkpoint
from torchspeed.engine.build import build
from torchspeed.engine.events import Event, Finished, JsonLines, Saved, Sink, Started, TensorBoard
from torchspeed.engine.guard import check_first_loss, preflight
from torchspeed.engine.loop import Hooks, Position, fit, samples_until, total_steps, watched_value
from torchspeed.engine.progress import Terminal
from torchspeed.engine.rundir import Reference, RunDirectory
from torchspeed.engine.signals import StopSignals
from torchspeed.engine.state import capture, encode, restore
from torchspeed.errors import CheckpointError, JobError, PlanError, Preempted, StorageError
from torchspeed.job import Job
from torchspeed.machine import Machine
from torchspeed.measurement import Provenance
from torchspeed.plan import Plan
from torchspeed.run import Run

CHECKPOINT_SECONDS = 30.0
# Fields that say when to stop and what to look at; a run may be resumed with others.
_MAY_DIFFER = {"name", "epochs", "valid", "metric", "goal", "evaluate_every", "stop_at_goal"}


@dataclass(frozen=True)
class Result:
    """What a training gave; ``result.json`` is its ``as_dict``.

    value: the metric at the last evaluation (None without validation data); goal_reached: whether that evaluation
    reaches the goal. seconds: wall-clock time of the training
    with its evaluations and checkpoints, over all resumptions; setup_seconds: before the first step (reading data,
    building the model). seconds_to_goal: when an evaluation first reached the goal. samples_per_second: over
    ``seconds``. model: the trained module, in evaluation mode.
    """

    name: str
    metric: str
    value: float | None
    loss: float | None
    best: float | None
    goal: str | None
    goal_reached: bool | None
    seconds: float
    seconds_to_goal: float | None
    setup_seconds: float
    steps: int
    samples_per_second: float
    seed: int
    plan: Plan
    applied: tuple[str, ...]
    skipped: tuple[str, ...]
    run_dir: str
    provenance: Provenance
    model: nn.Module = field(compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        names = (f.name for f in dataclasses.fields(self) if f.name not in ("model", "plan", "provenance"))
        machine = self.provenance.machine.as_dict()
        versions = machine.pop("versions")
        return {
            **{name: getattr(self, name) for name in names},
            "plan": dict(self.plan.options),
            "machine": machine,
            "versions": versions,
            "date": self.provenance.date,
        }


def train(
    job: Job,
    plan: Plan | None = None,
    *,
    run_dir: str | Path | None = None,
    device: str | None = None,
    resume: str | Path | None = None,
    checkpoint_every: int | None = None,
    log_every: int | None = None,
    progress: bool = True,
    sinks: Sequence[Sink] = (),
    reference: Reference | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Train ``job`` with ``plan`` (None: as written) and return what came of it.

    run_dir: where the run is kept, ``runs/NAME-DATE-TIME`` by default. resume: the directory of a run that ended early;
    it goes on bit for bit, with its own plan. checkpoint_every: steps between checkpoints; None is every 30 seconds.
    log_every: steps between lines of metrics.jsonl; None is about 200 lines in all. sinks: more receivers of events.
    reference, notes: how the job was named and what to say at the start, from the command line.

    Raises JobError, DataError, PlanError or DeviceError before anything is written; CheckpointError when the run cannot
    be resumed; DivergedError; StorageError; Preempted after a signal, when the state is saved.
    """
    began = time.perf_counter()
    if not isinstance(job, Job):
        raise JobError(
            f"train() takes a Job; found {job!r}. torchspeed.load_job('job.py') makes one from a file or a name"
        )
    if plan is not None and not isinstance(plan, Plan):
        raise PlanError(f"plan must be a Plan; found {plan!r}. torchspeed.Plan.of(precision='bf16') makes one")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise JobError(f"checkpoint_every must be at least 1 step; found {checkpoint_every}")
    if log_every is not None and log_every < 1:
        raise JobError(f"log_every must be at least 1 step; found {log_every}")
    if resume is not None and (plan is not None or run_dir is not None):
        raise PlanError("resume goes on with the plan and the directory of its run; leave out plan and run_dir")
    machine = Machine.detect(device)
    directory = RunDirectory.for_new(run_dir, job.name) if resume is None else RunDirectory.existing(resume)
    if plan is None:
        plan = Plan() if resume is None else Plan.read(directory.plan)
    job.field_fingerprints  # noqa: B018  now, before the data are used: a data set may keep what it has read
    run = build(job, plan, machine)
    said = [*notes, f"plan: {', '.join(run.applied) or 'as written'}", *run.skipped]
    position = Position()
    preflight(run, job)
    encode(capture(run, {}), {})  # what cannot be saved is said now
    outputs: list[Sink] = list(sinks)
    steps = total_steps(job, run)
    try:
        if resume is None:
            directory.create(job, plan, reference or {})
        else:
            directory.hold()
            position, resumed = _resume(run, job, plan, directory)
            said += resumed
        outputs.append(JsonLines(directory.metrics, None if resume is None else position.step))
        if TensorBoard.installed():
            outputs.append(TensorBoard(directory.tensorboard))
        if progress:
            outputs.append(Terminal())
        setup_seconds = time.perf_counter() - began
        with StopSignals() as signals:
            recorder = _Recorder(run, job, plan, directory, position, outputs, checkpoint_every)
            recorder.emit(
                Started(
                    job.name,
                    str(machine),
                    str(directory.path),
                    str(job.goal or "none"),
                    steps,
                    job.batch_size,
                    position.step,
                    tuple(said),
                )
            )
            hooks = Hooks(recorder.emit, recorder.save, recorder.due, signals.requested, check_first_loss)
            fit(run, job, position, hooks, log_every or min(100, max(1, steps // 200)))
        result = _result(run, job, plan, directory, position, machine, setup_seconds)
        directory.write_result(result.as_dict())
        recorder.emit(Finished(result.as_dict()))
        return result
    except Preempted as stopped:
        how = (
            f"torchspeed train --resume {directory.path}"
            if reference
            else f"train(job, resume={str(directory.path)!r})"
        )
        raise Preempted(f"{stopped}; go on with: {how}") from None
    except BaseException:
        if position.step <= 1 and resume is None and directory.created:
            directory.discard()
        raise
    finally:
        for sink in outputs:
            sink.close()
        directory.release()


class _Recorder:
    """Checkpoints and events of one process's share of a run."""

    def __init__(
        self,
        run: Run,
        job: Job,
        plan: Plan,
        directory: RunDirectory,
        position: Position,
        sinks: Sequence[Sink],
        every: int | None,
    ) -> None:
        self.run, self.directory, self.position, self.sinks, self.every = run, directory, position, sinks, every
        self.about = {"name": job.name, "fields": job.field_fingerprints, "plan": dict(plan.options)}
        self.saved_at = time.perf_counter()

    def emit(self, event: Event) -> None:
        try:
            for sink in self.sinks:
                sink.handle(event)
        except OSError as error:
            raise StorageError(f"{self.directory.path}: cannot be written: {error.strerror}") from error

    def due(self) -> bool:
        if self.every is not None:
            return self.position.step % self.every == 0
        return time.perf_counter() - self.saved_at >= CHECKPOINT_SECONDS

    def save(self) -> None:
        began = time.perf_counter()
        state = capture(self.run, asdict(self.position))
        path = checkpoint.save(self.directory.checkpoints, self.position.step, state, self.about)
        self.saved_at = time.perf_counter()
        self.emit(Saved(self.position.step, str(path), self.saved_at - began))


def _resume(run: Run, job: Job, plan: Plan, directory: RunDirectory) -> tuple[Position, list[str]]:
    if not checkpoint.found_in(directory.checkpoints):
        _check_same_job(job, directory.read_fields(), directory.job)
        return Position(), ["resumed before the first checkpoint: starting at step 0"]
    found, refused = checkpoint.newest(directory.checkpoints)
    _check_same_job(job, found.about["fields"], found.path)
    if found.about["plan"] != dict(plan.options):
        raise CheckpointError(f"{directory.plan}: was changed since {found.path} was saved; put it back as it was")
    values = restore(run, found.state)
    known = {f.name for f in dataclasses.fields(Position)}
    position = Position(**{name: value for name, value in values.items() if name in known})
    if {"goal", "metric", "valid"} & set(job.differs_from(found.about["fields"])):
        position.best = position.seconds_to_goal = None  # of another goal
    back = f"going back behind {len(refused)} damaged checkpoints: " if refused else ""
    return position, [*refused, f"{back}resumed at step {position.step} from {found.path}"]


def _check_same_job(job: Job, fields: dict[str, str], place: Path) -> None:
    changed = [name for name in job.differs_from(fields) if name not in _MAY_DIFFER]
    if changed:
        raise CheckpointError(
            f"{place}: is of another job: {', '.join(changed)} differ{'s' if len(changed) == 1 else ''}; "
            "resume with the job as it was (data drawn at random must be seeded), or start a new run"
        )


def _reached(job: Job, position: Position) -> bool | None:
    watched = watched_value(job, position.value, position.loss)
    return None if job.goal is None or watched is None else job.goal.reached(watched)


def _result(
    run: Run, job: Job, plan: Plan, directory: RunDirectory, position: Position, machine: Machine, setup: float
) -> Result:
    getattr(run.optimizer, "eval", lambda: None)()
    run.model.eval()
    samples = samples_until(run, position)
    return Result(
        name=job.name,
        metric=job.metric_name,
        value=position.value,
        loss=position.loss,
        best=position.best,
        goal=None if job.goal is None else str(job.goal),
        goal_reached=_reached(job, position),
        seconds=position.seconds,
        seconds_to_goal=position.seconds_to_goal,
        setup_seconds=setup,
        steps=position.step,
        samples_per_second=samples / max(position.seconds, 1e-9),
        seed=job.seed,
        plan=plan,
        applied=tuple(run.applied),
        skipped=tuple(run.skipped),
        run_dir=str(directory.path),
        provenance=Provenance.here(machine),
        model=run.model,
    )
