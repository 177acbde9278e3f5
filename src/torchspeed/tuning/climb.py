"""The walk uphill: a leap, then one lever at a time, then each kept lever taken out.

The leap: what promises most is tried together first, since some levers gain only in company (bf16 in the right memory
format) and one trial is quicker than five. What does not earn its place there is taken out in the end.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torchspeed.errors import JobError
from torchspeed.lever import Lever, Phase, Stage
from torchspeed.measure.statistics import PROCESS_NOISE, Interval, combine
from torchspeed.plan import Plan
from torchspeed.tuning.agreement import agreement, difference
from torchspeed.tuning.candidates import Candidate, leap, most_gain
from torchspeed.tuning.compare import FEW_PAIRS, Comparison
from torchspeed.tuning.judge import LEAST_GAIN, UNDECIDED, Judge, pays_back
from torchspeed.tuning.laboratory import Laboratory
from torchspeed.tuning.prove import Evidence
from torchspeed.tuning.result import Ablation, Tried
from torchspeed.tuning.trial import Trial, TrialFailed

WORTH_ANOTHER_TRY = 0.9
LUCKY = 3


@dataclass
class Climb:
    """One tuning, in this order: ``begin``, ``climb``, ``take_out_each``, ``against_as_written``.

    memory: bytes that a plan may use at most. say: receives a line for each thing tried.
    """

    laboratory: Laboratory
    levers: dict[str, Lever]
    memory: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.plan = Plan()
        self.tried: list[Tried] = []
        self.notes: list[str] = []
        self.parts: dict[str, float] = {}
        self.complete = True
        self.baseline_seconds = 0.0
        self.budget = self.laboratory.remaining
        self.trial_seconds = self.first_trial_seconds = 0.0
        self.incumbent: Trial
        self.evidence: Evidence
        self.judge: Judge

    @property
    def noise(self) -> float:
        """How far two processes of one plan were apart, as a factor."""
        return self.judge.noise if hasattr(self, "judge") else 1.0

    def begin(self) -> list[Candidate]:
        """Two trials as written: how fast it is, how far two equal processes are apart, whether they agree.

        Gives what there is to try; nothing if the budget does not reach further than this. Raises JobError when the
        job fails as it is written.
        """
        began = time.monotonic()
        try:
            first = self.incumbent = self.laboratory.open(Plan())
            elapsed = time.monotonic() - began
            block_seconds = first.step_seconds * self.laboratory.block_steps
            self.baseline_seconds = first.step_seconds / first.ready["batch_size"]
            self.trial_seconds = self.first_trial_seconds = elapsed + FEW_PAIRS * block_seconds
            found = [Candidate(**one) for one in first.ready["candidates"] if one["lever"] in self.levers]
            if self.laboratory.remaining < 2 * elapsed:
                self.complete = False
                self.notes.append(
                    f"the budget of {self.budget:.0f} s is too small: opening the job as written and taking its first "
                    f"steps took {elapsed:.0f} s, so no lever was tried; give --budget {_round_up(10 * elapsed)}s"
                )
                return []
            second = self.laboratory.open(Plan())
            apart = difference(self.laboratory, first, second)
            self.baseline_seconds = apart.seconds
            reference = agreement(self.laboratory, first, second, self.notes)
        except TrialFailed as failed:
            raise self._fails_as_written(failed) from failed
        self.judge = Judge(
            self.laboratory, self.memory, reference, apart.factor, self.budget, lambda: bool(self._short_of_time())
        )
        self.evidence = reference.evidence
        self.parts = self._parts(second)
        self.laboratory.close(second, evidence=True)
        return found

    def climb(self, found: Sequence[Candidate]) -> None:
        """Leap; try each candidate; once more those that came close, on top of what was kept after them."""
        together = leap(found, self.levers, self.parts)
        if len(together) > 1:
            self._leap(together)
        again = []
        for candidate in found:
            plan = self.plan
            tried = self.attempt(candidate)
            if tried is None:
                continue
            self._record(tried)
            close = tried.interval is not None and tried.interval.high > WORTH_ANOTHER_TRY
            if close and not tried.kept and "keep the result" not in tried.why:
                again.append((candidate, plan))
        for candidate, plan in again:
            changed = len(self.plan.options) > len(plan.options)
            tried = self.attempt(candidate) if changed else None
            if tried is not None and tried.interval is not None:
                self.tried = [one for one in self.tried if one.name != tried.name]
                self._record(tried)

    def attempt(self, candidate: Candidate) -> Tried | None:
        """Try one option of one lever on top of the plan; None if the plan has it."""
        lever = self.levers[candidate.lever]
        refused = Tried(candidate.lever, candidate.option, None, "", False, candidate.why_not)
        if candidate.why_not:
            return refused
        plan = self.plan.with_option(candidate.lever, candidate.option)
        if plan == self.plan:
            return None
        kept = dict(self.plan.options)
        excluded = sorted((lever.conflicts & kept.keys()) | {n for n in kept if lever.name in self._conflicts(n)})
        if excluded:
            return replace(refused, why=f"excludes {excluded[0]}, which was kept")
        if lever.phase is Phase.EVALUATION and not self.incumbent.ready["evaluations"]:
            return replace(refused, why="it acts on evaluations, and the job has no validation data")
        most, sentence = most_gain(lever, self.parts)
        if most < LEAST_GAIN and lever.phase is Phase.STEP:
            return replace(refused, why=f"not tried: {sentence}")
        short = self._short_of_time()
        if short:
            self.complete = False
            return replace(refused, why=f"not tried: {short}")
        return self._run(plan, lever, refused)

    def put_back(self) -> None:
        """Begin again from the job as written, in a fresh process."""
        self.plan, self.evidence = Plan(), self.judge.reference.evidence
        self._reopen()

    def take_out_each(self) -> list[Ablation]:
        """The backward pass: a lever without which the plan is as fast, or which never pays back, is taken out."""
        table: list[Ablation] = []
        for name, option in self.plan.options:
            if self.levers[name].phase is Phase.EVALUATION:
                continue
            if len(self.plan.options) == 1:
                own = next(one.interval for one in reversed(self.tried) if one.kept and one.lever == name)
                table += [Ablation(name, option, own, True)] if own is not None else []
                continue
            if self.laboratory.remaining < 2 * self.first_trial_seconds:
                self.complete = False
                self.notes.append(f"no time was left to take {name} out of the plan once")
                continue
            try:
                trial, result = self._without(name)
            except TrialFailed as failed:
                self.notes.append(f"without {name} the plan fails: {failed}")
                self._reopen()
                continue
            if result.interval is None or result.undecided:
                self.notes.append(f"whether the plan is slower without {name} was not decided in time; it stays")
                self.laboratory.close(trial)
                continue
            pays, why = pays_back(trial, self.incumbent, result.interval.ratio)
            stays = result.faster and pays
            table.append(Ablation(name, option, result.interval, stays))
            self.say(f"without {name}: {_shown(result.interval)}{'' if stays else '; taken out'}")
            if stays:
                self.laboratory.close(trial)
                continue
            self.laboratory.close(self.incumbent)
            self.incumbent, self.plan = trial, self.plan.without(name)
            as_fast = f"the plan without it is as fast ({_shown(result.interval)})"
            self._drop(name, f"taken out again: {why if result.faster else as_fast}")
        return table

    def against_as_written(self) -> Interval | None:
        """Fresh processes of the plan and of the job as written; None, and the plan is empty, if it is not faster.

        The interval allows for what two equal processes differed by.
        """
        self.laboratory.close(self.incumbent)
        problem, whole = "", None
        try:
            written, tuned = self.laboratory.open(Plan()), self.laboratory.open(self.plan)
            self.incumbent = tuned
            result = self.judge.compare(written, tuned, seconds=self.laboratory.remaining)
            if result.interval is None:
                problem = "the time was up before it could be measured against the job as written"
            else:
                whole = combine([result.interval], max(PROCESS_NOISE, math.log(self.noise)))
                self.baseline_seconds = result.candidate_seconds * whole.ratio
                steps = any(self.levers[name].phase is Phase.STEP for name, _ in self.plan.options)
                if result.interval.low <= 1 and not result.undecided and steps:
                    problem = f"against the job as written it is not faster ({_shown(result.interval)})"
            self.laboratory.close(written)
        except TrialFailed as failed:
            problem = f"measured against the job as written it failed: {failed}"
        if problem:
            self.notes.append(f"plan {self.plan}: {problem}; nothing is kept")
            for name, _ in self.plan.options:
                self._drop(name, f"taken out again: {problem}")
            self.plan = Plan()
            return None
        return whole

    def _without(self, name: str) -> tuple[Trial, Comparison]:
        """A fresh process of the plan without a lever, against the plan; more of them where the first is as fast.

        A process may be lucky with its memory, and that luck is what some levers make certain: what counts then is the
        mean over ``LUCKY`` processes.
        """
        found: list[Interval] = []
        while True:
            trial = self.laboratory.open(self.plan.without(name))
            result = self.judge.compare(trial, self.incumbent)
            if result.interval is None or result.undecided or (result.faster and not found):
                return trial, result
            found.append(result.interval)
            if len(found) == LUCKY or self.laboratory.remaining < 3 * self.first_trial_seconds:
                whole = combine(found) if len(found) > 1 else found[0]
                return trial, replace(result, interval=whole, faster=whole.ratio >= LEAST_GAIN)
            self.laboratory.close(trial)

    def _leap(self, together: Sequence[Candidate]) -> None:
        """Several levers in one trial; they are kept, or nothing is said against any of them.

        One that turns out to be impossible is left out, and the others leap without it.
        """
        plan = self.plan
        for candidate in together:
            plan = plan.with_option(candidate.lever, candidate.option)
        names = " + ".join(f"{one.lever}={one.option}" for one in together)
        slackest = min((self.levers[one.lever] for one in together), key=lambda lever: lever.guarantee.name)
        tried = self._run(plan, slackest, Tried(names, "together", None, "", False, ""))
        timed = "" if tried.interval is None else f"{_shown(tried.interval)}: "
        self.say(f"{names}, together: {timed}{'kept' if tried.kept else 'refused'}, {tried.why}")
        rest = [one for one in together if not tried.why.startswith(f"with it {one.lever}={one.option} is impossible")]
        if 1 < len(rest) < len(together):
            self._leap(rest)
        if tried.kept:
            why = f"with {len(together) - 1} others at once: {tried.why}"
            self.tried += [replace(tried, lever=one.lever, option=one.option, why=why) for one in together]

    def _run(self, plan: Plan, lever: Lever, refused: Tried) -> Tried:
        """A trial of ``plan``, judged; it becomes the incumbent if it is kept."""
        began = time.monotonic()
        kept, trial = False, None
        try:
            trial = self.laboratory.open(plan)
            tried = self._skipped(trial, refused)
            if tried is None and lever.phase is Phase.EVALUATION:
                tried = self.judge.judge_evaluations(refused, trial, self.incumbent)
            elif tried is None:
                tried, evidence = self.judge.judge(refused, lever, trial, self.incumbent, self.evidence)
            kept = tried.kept
            self.complete &= tried.why != UNDECIDED
            if tried.interval is not None and tried.interval.n >= FEW_PAIRS:
                self.trial_seconds = time.monotonic() - began
        except TrialFailed as failed:
            self.complete &= not failed.timed_out
            tried = replace(refused, why=f"failed: {failed}")
            if self.incumbent.closed:
                self._reopen()
        finally:
            if trial is not None and not kept:
                self.laboratory.close(trial)
        if kept:
            assert trial is not None
            self.laboratory.close(self.incumbent, evidence=True)
            added = dict(set(plan.options) - set(self.plan.options))
            self.incumbent, self.plan = trial, plan
            if lever.phase is Phase.STEP:
                self.evidence = evidence
            self._measure_again(any(self.levers[name].stage is Stage.PROCESS for name in added))
        return tried

    def _skipped(self, trial: Trial, refused: Tried) -> Tried | None:
        """What the run says of levers that it could not apply."""
        for skipped in trial.ready["skipped"]:
            name, _, why = skipped.partition(" is skipped: ")
            if name == refused.name:
                return replace(refused, why=why)
            if skipped not in self.incumbent.ready["skipped"] and why:
                return replace(refused, why=f"with it {name} is impossible: {why}")
        return None

    def _measure_again(self, started_otherwise: bool) -> None:
        """What the new plan is like: where its time goes and, if its processes are started otherwise, their noise."""
        try:
            self.parts = self._parts(self.incumbent)
            if started_otherwise:
                with self.laboratory.open(self.plan) as other:
                    self.judge.noise = difference(self.laboratory, self.incumbent, other).factor
        except TrialFailed as failed:
            self.notes.append(f"{self.plan}: a second process of it failed: {failed}")
            if self.incumbent.closed:
                self._reopen()

    def _parts(self, trial: Trial) -> dict[str, float]:
        steps = max(3, min(100, self.laboratory.block_steps * 4))
        answer = trial.ask("parts", self.laboratory.limit, steps=steps)
        parts: dict[str, float] = answer["parts"]
        return parts

    def _short_of_time(self) -> str:
        """Why there is no time for another trial: what is left is needed to take each lever out, and for the end."""
        needed = 1.5 * self.first_trial_seconds + len(self.plan.options) * self.trial_seconds
        left = self.laboratory.remaining
        if left >= needed:
            return ""
        return f"of the budget {max(left, 0):.0f} s are left, and the final measurements need about {needed:.0f} s"

    def _conflicts(self, name: str) -> frozenset[str]:
        return self.levers[name].conflicts if name in self.levers else frozenset()

    def _reopen(self) -> None:
        """The incumbent in a fresh process, after it failed or was put to use elsewhere."""
        self.laboratory.close(self.incumbent, evidence=True)
        try:
            self.incumbent = self.laboratory.open(self.plan)
        except TrialFailed as failed:
            if self.plan == Plan():
                raise self._fails_as_written(failed) from failed
            self.notes.append(f"the plan {self.plan} ran and then failed: {failed}; nothing is kept")
            for name, _ in self.plan.options:
                self._drop(name, "taken out again: it failed later")
            self.put_back()

    def _fails_as_written(self, failed: TrialFailed) -> JobError:
        if failed.timed_out:
            return JobError(
                f"as written, the job did not get through its first steps within the budget of {self.budget:.0f} s: "
                f"{failed}; nothing was tried. Give a larger --budget, or data that open faster"
            )
        two = "; tune needs room for two trainings at a time" if failed.memory and self.laboratory.opened > 1 else ""
        return JobError(f"as written, the job fails: {failed}{two}; nothing was tried")

    def _record(self, tried: Tried) -> None:
        if tried.kept:
            why = f"replaced by {tried.lever}={tried.option}"
            self.tried = [
                replace(o, kept=False, why=why) if o.lever == tried.lever and o.kept else o for o in self.tried
            ]
        self.tried.append(tried)
        if tried.interval is not None or tried.why.startswith("failed"):
            timed = "" if tried.interval is None else f"{_shown(tried.interval)}: "
            self.say(f"{tried.name}: {timed}{'kept' if tried.kept else 'refused'}, {tried.why}")

    def _drop(self, name: str, why: str) -> None:
        self.tried = [replace(o, kept=False, why=why) if o.lever == name and o.kept else o for o in self.tried]


def _shown(interval: Interval) -> str:
    return f"{interval.ratio:.3g}× [{interval.low:.3g}, {interval.high:.3g}] n={interval.n}"


def _round_up(seconds: float) -> int:
    return int(-(-seconds // 10) * 10)
