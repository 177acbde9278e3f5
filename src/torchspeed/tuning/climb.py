"""The walk uphill: one lever at a time, each candidate against the plan found so far, then each kept lever taken out.

Questions about a candidate come in the order of their price: does it apply, can it matter here, does it run, is it
faster, does it fit into memory, is it still right, does it pay back.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from torchspeed.errors import JobError
from torchspeed.lever import Guarantee, Lever, Phase, Stage
from torchspeed.measure import proof
from torchspeed.measure.proof import Proof
from torchspeed.measure.statistics import PROCESS_NOISE, Interval, Verdict, combine, decide
from torchspeed.plan import Plan
from torchspeed.tuning.candidates import Candidate, most_gain
from torchspeed.tuning.compare import FEW_PAIRS, Comparison, compare, compare_briefly, compare_evaluations
from torchspeed.tuning.laboratory import MOVED, Laboratory
from torchspeed.tuning.prove import Evidence, Reference, gather, prove_close, prove_exact, prove_scores
from torchspeed.tuning.result import Ablation, Tried
from torchspeed.tuning.trial import Trial, TrialFailed

ALPHA = 0.02
LEAST_GAIN = 1.015
SAME_PAIRS = 6
FEW_BATCHES = 3
LEAST_LUCK = 0.03
MOST_PROCESS_PAIRS = 6
WORTH_ANOTHER_TRY = 0.9
LONGEST_COMPARISON = 0.1
START_NOISE = 0.5


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
        self.noise = 1.0
        self.complete = True
        self.baseline_seconds = 0.0
        self._evidence: Evidence
        self.budget = self.laboratory.remaining
        self.trial_seconds = self.first_trial_seconds = 0.0

    def begin(self) -> list[Candidate]:
        """Two trials as written: how fast it is, how far two equal processes are apart, whether they agree.

        Gives what there is to try; nothing if the budget does not reach further than this. Raises JobError when the
        job fails as it is written.
        """
        began = time.monotonic()
        try:
            first = self.incumbent = self.laboratory.open(Plan())
            block = first.block(self.laboratory.block_steps, self.laboratory.limit)
            self.baseline_seconds = block.seconds_per_sample
            self.trial_seconds = self.first_trial_seconds = time.monotonic() - began + FEW_PAIRS * block.seconds
            found = [Candidate(**one) for one in first.ready["candidates"] if one["lever"] in self.levers]
            if self.laboratory.remaining < 3 * (time.monotonic() - began):
                self.complete = False
                self.notes.append(
                    f"the budget of {self.budget:.0f} s is too small: opening the job as written and taking its first "
                    f"steps took {time.monotonic() - began:.0f} s, so no lever was tried; give --budget "
                    f"{_round_up(10 * (time.monotonic() - began))}s or more"
                )
                return []
            self._agreement(first)
        except TrialFailed as failed:
            if failed.timed_out:
                raise JobError(
                    f"as written, the job did not get through its first steps within the budget of {self.budget:.0f} s "
                    f"({failed}); nothing was tried. Give a larger --budget, or data that open faster"
                ) from failed
            raise JobError(f"as written, the job fails: {failed}; nothing was tried") from failed
        return found

    def climb(self, found: Sequence[Candidate]) -> None:
        """Try each candidate; once more those that came close, on top of what was kept after them."""
        again = []
        for candidate in found:
            plan = self.plan
            tried = self.attempt(candidate)
            if tried is None:
                continue
            self._record(tried)
            close = tried.interval is not None and tried.interval.high > WORTH_ANOTHER_TRY
            if close and not tried.kept and not tried.proof:
                again.append((candidate, plan))
        for candidate, plan in again:
            changed = len(self.plan.options) > len(plan.options)
            tried = self.attempt(candidate) if changed else None
            if tried is not None and tried.interval is not None:
                self.tried = [one for one in self.tried if one.name != tried.name]
                self._record(tried)

    def put_back(self) -> None:
        """Begin again from the job as written, in a fresh process."""
        self.plan, self.evidence = Plan(), self.reference.evidence
        self._reopen()

    def take_out_each(self) -> list[Ablation]:
        """The backward pass: a lever without which the plan is as fast is taken out."""
        table = []
        for name, option in self.plan.options:
            if self.levers[name].phase is Phase.EVALUATION:
                continue
            if len(self.plan.options) == 1:
                own = next(one.interval for one in self.tried if one.kept and one.lever == name)
                assert own is not None
                return [Ablation(name, option, own, True)]
            if self.laboratory.remaining < 2 * self.first_trial_seconds:
                self.notes.append(f"no time was left to take {name} out of the plan once")
                continue
            without = self.plan.without(name)
            try:
                trial = self.laboratory.open(without)
                result = self._compare(trial, self.incumbent)
            except TrialFailed as failed:
                self.notes.append(f"without {name} the plan fails: {failed}")
                self._reopen()
                continue
            if result.interval is not None:
                table.append(Ablation(name, option, result.interval, result.faster))
                self.say(f"without {name}: {_shown(result.interval)}{'' if result.faster else '; taken out'}")
            if result.faster or result.interval is None:
                self.laboratory.close(trial)
            else:
                self.laboratory.close(self.incumbent)
                self.incumbent, self.plan = trial, without
                self._drop(name, result.interval)
        return table

    def against_as_written(self) -> Interval | None:
        """Fresh processes of the plan and of the job as written; None, and the plan is empty, if it is not faster.

        The interval allows for what two equal processes differed by.
        """
        self.laboratory.close(self.incumbent)
        written, tuned = self.laboratory.open(Plan()), self.laboratory.open(self.plan)
        self.incumbent = tuned
        result = self._compare(written, tuned)
        self.laboratory.close(written)
        if result.interval is None:
            return None
        whole = combine([result.interval], max(PROCESS_NOISE, math.log(self.noise)))
        self.baseline_seconds = result.candidate_seconds * whole.ratio
        if not result.faster and any(self.levers[name].phase is Phase.STEP for name, _ in self.plan.options):
            self.notes.append(
                f"measured once more in fresh processes, {self.plan} is not faster than as written "
                f"({_shown(result.interval)}): nothing is kept"
            )
            for name, _ in self.plan.options:
                self._drop(name, result.interval)
            self.plan = Plan()
            return None
        return whole

    def _measure_again(self, lever: Lever) -> None:
        """What the plan with ``lever`` is like: where its time goes and, if processes differ now, how far they do."""
        self.parts = self._parts(self.incumbent)
        if lever.stage is Stage.PROCESS:
            with self.laboratory.open(self.plan) as other:
                self.noise, _ = self._difference(self.incumbent, other)

    def _parts(self, trial: Trial) -> dict[str, float]:
        steps = max(3, min(100, self.laboratory.block_steps * 4))
        parts: dict[str, float] = trial.ask("parts", self.laboratory.limit, steps=steps)
        return parts

    def _difference(self, first: Trial, second: Trial) -> tuple[float, float]:
        """How far two trials of one plan are apart, as a factor ≥ 1; and their median seconds per sample."""
        ratios: list[float] = []
        seconds: list[float] = []
        for turn in range(SAME_PAIRS):
            pair = [first, second] if turn % 2 == 0 else [second, first]
            timed = {
                id(trial): trial.block(self.laboratory.block_steps, self.laboratory.limit).seconds_per_sample
                for trial in pair
            }
            ratios.append(timed[id(first)] / timed[id(second)])
            seconds += timed.values()
        ratio = median(ratios)
        return max(ratio, 1 / ratio), median(seconds)

    def _out_of_time(self) -> bool:
        """Whether what is left is needed to take each lever out once and to measure the plan as a whole."""
        needed = 2 * self.first_trial_seconds + (len(self.plan.options) + 2) * self.trial_seconds
        return self.laboratory.remaining < needed

    def _agreement(self, first: Trial) -> None:
        limit = self.laboratory.limit
        second = self.laboratory.open(Plan())
        self.noise, self.baseline_seconds = self._difference(first, second)
        curves = first.losses[: len(second.losses)], second.losses[: len(first.losses)]
        own = gather(second, self.laboratory.weights, first.ready["batches_per_epoch"], limit)
        again = self._gradients(first, "again", count=FEW_BATCHES)
        few = min(FEW_BATCHES, len(own.losses))
        repeated = proof.gradients(second.folder, again, few)
        reproducible = curves[0] == curves[1] and repeated.equal
        other = self._gradients(first, "other-seed", seed=1, count=FEW_BATCHES)
        rounded = self._gradients(first, "rounded", rounded=True, count=FEW_BATCHES)
        drawn = proof.gradients(second.folder, other, few, average=True)
        rounding = proof.gradients(second.folder, rounded, few).error
        noise = 0.0 if drawn.equal else drawn.error
        if not reproducible:
            noise = max(noise, repeated.error)
            self.notes.append(
                "as written, two processes with the same seed do not give the same bits "
                f"(gradients off by {repeated.error:.2g}); that much is allowed to every lever"
            )
        self.reference = Reference(own, self.laboratory.weights, reproducible, rounding, noise, self._other_seeds)
        self.evidence = own
        self.parts = self._parts(second)
        self.laboratory.close(second)

    def _gradients(self, trial: Trial, folder: str, **how: int) -> Path:
        path = self.laboratory.folder / folder
        path.mkdir(exist_ok=True)
        trial.ask("gradients", self.laboratory.limit, weights=str(self.laboratory.weights), folder=str(path), **how)
        return path

    def _other_seeds(self, steps: int) -> list[list[float]]:
        curves = []
        for seed in (1, 2):
            try:
                trial = self.laboratory.open(Plan(), seed=seed)
                while trial.steps < steps:
                    trial.block(min(steps - trial.steps, self.laboratory.block_steps), self.laboratory.limit)
                curves.append(trial.losses[:steps])
                self.laboratory.close(trial)
            except TrialFailed as failed:
                self.notes.append(f"with seed {seed} the job fails as written: {failed}")
        return curves

    def attempt(self, candidate: Candidate) -> Tried | None:
        lever = self.levers[candidate.lever]
        refused = Tried(candidate.lever, candidate.option, None, "", False, candidate.why_not)
        if candidate.why_not:
            return refused
        plan = self.plan.with_option(candidate.lever, candidate.option)
        if plan == self.plan:
            return None
        excluded = sorted(lever.conflicts & dict(self.plan.options).keys())
        if excluded:
            return replace(refused, why=f"excludes {excluded[0]}, which was kept")
        if lever.phase is Phase.EVALUATION and not self.incumbent.ready["evaluations"]:
            return replace(refused, why="it acts on evaluations, and the job has no validation data")
        most, sentence = most_gain(lever, self.parts)
        if most < LEAST_GAIN:
            return replace(refused, why=f"not tried: {sentence}")
        if self._out_of_time():
            self.complete = False
            return replace(refused, why="not tried: the budget was used up")
        self._began = time.monotonic()
        try:
            trial = self.laboratory.open(plan)
        except TrialFailed as failed:
            return replace(refused, why=f"failed: {failed}")
        kept = False
        try:
            tried = self._judge(lever, trial, refused)
            kept = tried.kept
        except TrialFailed as failed:
            tried = replace(refused, why=f"failed: {failed}")
            if self.incumbent.closed:
                self._reopen()
        finally:
            if not kept:
                self.laboratory.close(trial)
        if kept:
            self.laboratory.close(self.incumbent)
            self.incumbent, self.plan = trial, plan
            self._measure_again(lever)
        return tried

    def _judge(self, lever: Lever, trial: Trial, tried: Tried) -> Tried:
        for skipped in trial.ready["skipped"]:
            name, _, why = skipped.partition(" is skipped: ")
            if name == tried.name:
                return replace(tried, why=why)
            if skipped not in self.incumbent.ready["skipped"] and why:
                return replace(tried, why=f"with it {name} is impossible: {why}")
        if lever.phase is Phase.EVALUATION:
            return self._judge_evaluation(trial, tried)
        result = self._compare(self.incumbent, trial, self._beyond_luck())
        self.trial_seconds = time.monotonic() - self._began
        peak = trial.ask("memory", self.laboratory.limit)["bytes"]
        tried = replace(tried, interval=result.interval, first_seconds=trial.first_seconds, peak_memory=peak)
        if result.undecided or result.interval is None:
            return replace(tried, why="not decided in the time that a trial may take")
        if result.faded:
            return replace(tried, why="faster in its first steps only")
        if not result.faster:
            return replace(tried, why="slower" if result.interval.high < 1 else "no gain that can be told from noise")
        if peak > self.memory:
            return replace(tried, why=f"uses {_gib(peak)}, more than the {_gib(self.memory)} that are allowed")
        saved, extra, why = self._pays_back(trial, result)
        if extra >= saved:
            return replace(tried, why=why)
        shown = self._proof(lever, trial)
        tried = replace(tried, proof=shown.sentence)
        if not shown.holds:
            return replace(tried, why="it does not keep the result")
        if result.interval.low < self._beyond_luck():
            whole, verdict = self._in_fresh_processes(trial.plan, result.interval)
            tried = replace(tried, interval=whole)
            if verdict is not Verdict.FASTER:
                return replace(tried, why=f"over {whole.n} pairs of fresh processes the gain is not certain")
        self.evidence = self._evidence
        return replace(tried, kept=True, why=why or "faster and still right")

    def _beyond_luck(self) -> float:
        """A factor by which two processes of one plan hardly ever differ, from how far two of them did."""
        return math.exp(4 * max(LEAST_LUCK, math.log(self.noise)))

    def _in_fresh_processes(self, plan: Plan, first: Interval) -> tuple[Interval, Verdict]:
        """Equal processes differ by their luck with memory: a small gain must show in several pairs."""
        pairs = [first]
        while True:
            verdict = decide(pairs, least_gain=LEAST_GAIN, alpha=ALPHA, most_process_pairs=MOST_PROCESS_PAIRS)
            if verdict is not Verdict.UNDECIDED or self._out_of_time():
                return combine(pairs), verdict
            with self.laboratory.open(self.plan) as ours, self.laboratory.open(plan) as theirs:
                again = compare_briefly(ours, theirs, self.laboratory.block_steps, self._deadline())
            if again is not None:
                pairs.append(again)

    def _judge_evaluation(self, trial: Trial, tried: Tried) -> Tried:
        weights = str(self.reference.evidence.folder / MOVED)
        result, ours, theirs = compare_evaluations(
            self.incumbent, trial, weights, self._deadline(), alpha=ALPHA, gain=LEAST_GAIN
        )
        tried = replace(tried, interval=result.interval)
        if not result.faster:
            return replace(tried, why="evaluations are not faster")
        shown = prove_scores(ours, theirs)
        tried = replace(tried, proof=shown.sentence)
        why = f"evaluations are faster; the job has {trial.ready['evaluations']}" if shown.holds else "another result"
        return replace(tried, kept=shown.holds, why=why)

    def _proof(self, lever: Lever, trial: Trial) -> Proof:
        batches = self.incumbent.ready["batches_per_epoch"]
        evidence = gather(trial, self.laboratory.weights, batches, self.laboratory.limit)
        if lever.guarantee is Guarantee.EXACT:
            shown = prove_exact(evidence, self.evidence, self.reference)
        else:
            shown = prove_close(evidence, self.reference, data=lever.stage is Stage.DATA)
        self._evidence = evidence
        return shown

    def _pays_back(self, trial: Trial, result: Comparison) -> tuple[float, float, str]:
        """Seconds that are saved over the job, seconds that the start costs more, and the sentence if that matters."""
        ours, theirs = self.incumbent, trial
        extra = theirs.first_seconds - ours.first_seconds
        extra += theirs.ready["build_seconds"] - ours.ready["build_seconds"]
        if extra < START_NOISE:
            return 1.0, 0.0, ""
        steps, samples = theirs.ready["total_steps"], theirs.ready["batch_size"]
        assert result.interval is not None
        per_step = result.candidate_seconds * samples * (result.interval.ratio - 1)
        saved = per_step * steps
        pays = f"its start costs {extra:.1f} s more"
        if extra >= saved:
            return saved, extra, f"{pays} and it saves {saved:.1f} s over the {steps} steps of the job"
        return saved, extra, f"{pays}, paid back after {extra / per_step:.0f} of {steps} steps"

    def _compare(self, incumbent: Trial, candidate: Trial, sure: float = 1.0) -> Comparison:
        steps = self.laboratory.block_steps
        return compare(incumbent, candidate, steps, self._deadline(), alpha=ALPHA, gain=LEAST_GAIN, sure=sure)

    def _deadline(self) -> float:
        return time.monotonic() + max(3.0, min(LONGEST_COMPARISON * self.budget, self.laboratory.remaining))

    def _reopen(self) -> None:
        """The incumbent in a fresh process, after it failed or its lever was put to use elsewhere."""
        self.laboratory.close(self.incumbent)
        try:
            self.incumbent = self.laboratory.open(self.plan)
        except TrialFailed as failed:
            raise JobError(f"the plan {self.plan} ran and now fails: {failed}") from failed

    def _record(self, tried: Tried) -> None:
        self.tried.append(tried)
        if tried.interval is not None or not tried.why.startswith("not tried"):
            timed = "" if tried.interval is None else f"{_shown(tried.interval)}: "
            self.say(f"{tried.name}: {timed}{'kept' if tried.kept else 'refused'}, {tried.why}")

    def _drop(self, name: str, interval: Interval) -> None:
        why = f"taken out again: the plan without it is as fast ({_shown(interval)})"
        self.tried = [replace(o, kept=False, why=why) if o.lever == name and o.kept else o for o in self.tried]


def _shown(interval: Interval) -> str:
    return f"{interval.ratio:.3g}× [{interval.low:.3g}, {interval.high:.3g}] n={interval.n}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def _round_up(seconds: float) -> int:
    return int(-(-seconds // 10) * 10)
