"""``explain(job)``: where the time of a step goes, what the limit is, what fixing a part would gain, and what to try.

The answer comes from steps of the training itself, built and stepped as ``train`` does it. The weights move, and the
run is thrown away.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchspeed.batch import map_tensors
from torchspeed.data.pipeline.compile import compiled_for
from torchspeed.data.pipeline.compiled import Compiled
from torchspeed.data.pipeline.table import render
from torchspeed.engine import guard
from torchspeed.engine.build import build
from torchspeed.errors import DataError, JobError, NotApplicable
from torchspeed.facts import observe
from torchspeed.job import Batch, Job
from torchspeed.machine import Machine
from torchspeed.measure import page
from torchspeed.measure.achieved import Achieved, achieved
from torchspeed.measure.advice import Advice, Subject, advise
from torchspeed.measure.figures import milliseconds, percent
from torchspeed.measure.limits import Limits, measured_limits
from torchspeed.measure.modules import time_modules
from torchspeed.measure.parts import Parts, StepFailed, measure_parts
from torchspeed.measure.suggest import Suggestion, suggestions
from torchspeed.measure.trace import check_writable, write_trace
from torchspeed.measure.verdict import Verdict, bounds, floors, verdict, worth_moving
from torchspeed.measure.work import StepWork, count_step
from torchspeed.measurement import Provenance
from torchspeed.plan import Plan
from torchspeed.run import Loader, Run

_T = TypeVar("_T")
_STEADY = 1.5  # quartiles of a step's time that are further apart than by this factor are worth a sentence


@dataclass(frozen=True)
class Explanation:
    """``str`` of it is the page that ``torchspeed explain`` prints, ``as_dict`` what ``--json`` prints.

    least: part -> the least seconds that it can take here. bounds: part -> how many times as fast a step would be at
    most if this part were fixed. modules: the slowest first. try_first: levers that can move the verdict's bound.
    pipelines: for "train" and "valid", what is done with the data, as text. opening_seconds: data and model, before
    the first step. notes: what was skipped, and why.
    """

    job: str
    machine: Machine
    limits: Limits
    plan: Plan
    parts: Parts
    least: dict[str, float]
    verdict: Verdict
    bounds: dict[str, float]
    modules: tuple[Achieved, ...]
    try_first: tuple[Suggestion, ...]
    advice: tuple[Advice, ...]
    pipelines: dict[str, str]
    opening_seconds: float
    notes: tuple[str, ...]
    provenance: Provenance

    @property
    def limit_seconds(self) -> float | None:
        """No step can take less on this machine. None where the work of a step could not be counted."""
        return sum(self.least.values()) if self.least.keys() == self.parts.seconds.keys() else None

    @property
    def share_of_limit(self) -> float | None:
        return None if self.limit_seconds is None else self.limit_seconds / self.parts.step_seconds

    @property
    def samples_per_second(self) -> float:
        return self.parts.samples / self.parts.step_seconds

    def as_dict(self) -> dict[str, Any]:
        parts = self.parts
        return {
            "job": self.job,
            "machine": self.machine.as_dict(),
            "limits": asdict(self.limits),
            "plan": dict(self.plan.options),
            "samples_per_second": self.samples_per_second,
            "step_seconds": parts.step_seconds,
            "parts": dict(parts.seconds),
            "spread": {name: asdict(spread) for name, spread in {"whole": parts.step_spread, **parts.spread}.items()},
            "unmarked_step_seconds": None if parts.unmarked is None else asdict(parts.unmarked),
            "limit_seconds": self.limit_seconds,
            "least_seconds": self.least,
            "share_of_limit": self.share_of_limit,
            "verdict": self.verdict.bound.value,
            "because": self.verdict.because,
            "bounds": self.bounds,
            "modules": [module.as_dict() for module in self.modules],
            "try_first": [asdict(suggestion) for suggestion in self.try_first],
            "advice": [asdict(piece) for piece in self.advice],
            "pipelines": self.pipelines,
            "opening_seconds": self.opening_seconds,
            "warmup_seconds": parts.warmup_seconds,
            "warmup_steps": parts.warmup_steps,
            "notes": list(self.notes),
            "provenance": {"date": self.provenance.date, "steps": parts.step_spread.n},
        }

    def __str__(self) -> str:
        sections = [self._head(), self._answer(), page.parts_table(self.parts, self.bounds)]
        if self.try_first:
            sections.append(
                f"try first (torchspeed tune measures all of them)\n{page.suggestions_list(self.try_first)}"
            )
        if self.advice:
            sections.append(f"advice\n{page.advice_list(self.advice)}")
        if self.modules:
            sections.append(page.modules_table(self.modules))
        sections += [page.wrapped(f"{name}: {text}", 4) for name, text in self.pipelines.items()]
        if self.notes:
            sections.append("\n".join(page.wrapped(f"· {note}") for note in self.notes))
        return "\n\n".join(sections)

    def _head(self) -> str:
        lines = [f"job: {self.job}; plan: {self.plan}", str(self.machine), f"limits: {self.limits}"]
        return "\n".join(page.wrapped(line) for line in lines)

    def _answer(self) -> str:
        parts = self.parts
        limit = "the limit is not known"
        if self.limit_seconds is not None and self.share_of_limit is not None:
            least = f"no step takes less than {milliseconds(self.limit_seconds)} ms here"
            limit = f"{percent(self.share_of_limit)} of the limit: {least}"
        lines = [
            f"{self.verdict.bound.value.upper()}-BOUND: {self.verdict.because}.",
            f"A step of {parts.samples} samples takes {milliseconds(parts.step_seconds)} ms, which is "
            f"{self.samples_per_second:,.0f} samples/s; {limit}.",
            f"Before: {self.opening_seconds:.1f} s to open data and model, {parts.warmup_seconds:.1f} s for the first "
            f"{_steps(parts.warmup_steps)}.",
        ]
        low, high = parts.step_spread.low, parts.step_spread.high
        if high > _STEADY * low:
            lines.append(
                f"Steps vary: a quarter take less than {milliseconds(low)} ms, a quarter more than "
                f"{milliseconds(high)} ms. If something else runs on this machine, measure again without it."
            )
        return "\n".join(page.wrapped(line) for line in lines)


def explain(
    job: Job,
    plan: Plan | None = None,
    *,
    device: str | None = None,
    steps: int | None = None,
    trace: str | Path | None = None,
    progress: bool = False,
) -> Explanation:
    """Build ``job`` with ``plan``, take some of its steps, and say what they wait for.

    steps: how many to time (by default as many as take some seconds). trace: a file for a trace of three steps, to be
    opened in Perfetto or chrome://tracing. progress: say on a terminal what is being done. Raises as ``build`` does,
    JobError or DataError for a step that fails, StorageError where the trace cannot be written.
    """
    if trace is not None:
        check_writable(Path(trace))
    plan = plan or Plan()
    machine = Machine.detect(device)
    with _Status(progress) as say:
        say("opening data and model")
        began = time.perf_counter()
        run = build(job, plan, machine)
        batch = run.loader.batch(0, 0)
        opening_seconds = time.perf_counter() - began
        facts = observe(run, job.batch_size, job.loss)
        loaders = {"train": run.loader, "valid": run.valid}
        pipelines = {name: _pipeline(loader, run.device) for name, loader in loaders.items() if loader is not None}
        say("measuring what this machine can do: once, then it is known")
        limits = measured_limits(machine)
        say("timing the parts of a step")
        try:
            parts = measure_parts(run, steps=steps)
        except StepFailed as failure:
            raise _told(run, job, failure) from failure.error
        notes = [*run.skipped, *limits.notes]
        say("counting the work of a step")
        work = _attempt(lambda: count_step(run, batch), "the work of a step is not counted", notes)
        say("timing modules")
        timed = _attempt(lambda: time_modules(run), "modules are not timed", notes) or ()
        if trace is not None:
            say("recording the trace")
            write_trace(run, Path(trace))
        say("reading job, model and pipeline")
        flops = {} if work is None else _flops_of_modules(work)
        advice, unread = advise(Subject(job=job, run=run, machine=machine, shares=parts.shares, flops=flops))
    least = floors(parts.seconds, work, limits, _bytes_elsewhere(batch, run.device))
    found = verdict(parts.seconds, work, limits)
    return Explanation(
        job=f"{job.name}, batches of {parts.samples}, {len(run.loader)} per epoch",
        machine=machine,
        limits=limits,
        plan=plan,
        parts=parts,
        least=least,
        verdict=found,
        bounds=bounds(parts.seconds, least),
        modules=achieved(timed, work, limits),
        try_first=suggestions(worth_moving(found, parts.shares), plan, facts, machine),
        advice=advice,
        pipelines=pipelines,
        opening_seconds=opening_seconds,
        notes=(*notes, *unread),
        provenance=Provenance.here(machine),
    )


def _told(run: Run, job: Job, failure: StepFailed) -> JobError | DataError:
    """What happened, where, and what was measured before it."""
    told = guard.explain(run, job, failure.batch, failure.error, failure.place)
    parts = failure.parts
    measured = "nothing was measured before it"
    if parts is not None:
        shares = ", ".join(f"{part} {percent(share)}" for part, share in parts.shares.items() if share >= 0.005)
        measured = (
            f"measured before it: {_steps(parts.step_spread.n)} of {milliseconds(parts.step_seconds)} ms: {shares}"
        )
    kind = DataError if isinstance(told, DataError) else JobError
    epoch, number = failure.place
    return kind(f"step {failure.number} (batch {number} of epoch {epoch}) failed: {told}; {measured}")


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _attempt(measure: Callable[[], _T], what: str, notes: list[str]) -> _T | None:
    """The result, or None and a note: parts that were timed are worth telling without it."""
    try:
        return measure()
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        known = isinstance(error, (NotApplicable, StepFailed))
        notes.append(f"{what}: {first if known else f'{type(error).__name__}: {first}'}")
        return None


def _flops_of_modules(work: StepWork) -> dict[str, float]:
    """Module -> share of the step's FLOPs."""
    flops = {module.name: module.forward.total_flops + module.backward.total_flops for module in work.modules}
    total = work.total.total_flops
    return {name: count / total for name, count in flops.items()} if total else {}


def _bytes_elsewhere(batch: Batch, device: torch.device) -> int:
    """Bytes of ``batch`` that have to be copied to ``device``."""
    sizes = [0]

    def add(tensor: Tensor) -> None:
        if tensor.device.type != device.type:
            sizes.append(tensor.nbytes)

    map_tensors(batch, add)
    return sum(sizes)


def _pipeline(loader: Loader, device: torch.device) -> str:
    compiled, head = getattr(loader, "dataset", None), "compiled"
    if not isinstance(compiled, Compiled):
        head = "as written; with pipeline=compiled it would be"
        try:
            compiled = compiled_for(loader, device=device)
        except NotApplicable as reason:
            return f"as written: {reason}"
    return f"{head}\n{render(compiled.rows)}"


class _Status:
    """One line on the terminal that says what is being done; gone in the end."""

    def __init__(self, wanted: bool) -> None:
        self.shown = wanted and sys.stderr.isatty()

    def __enter__(self) -> "_Status":
        return self

    def __exit__(self, *exception: object) -> None:
        self("")

    def __call__(self, doing: str) -> None:
        if self.shown:
            sys.stderr.write(f"\r\x1b[K{doing}{' …' if doing else ''}")
            sys.stderr.flush()
