"""What speaks against a candidate that runs: it is not faster, not for long, too large, wrong, or never paid back."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torchspeed.lever import Guarantee, Lever, Stage
from torchspeed.measure.proof import Proof
from torchspeed.measure.statistics import Interval, Verdict, combine, decide
from torchspeed.plan import Plan
from torchspeed.tuning.compare import Comparison, compare, compare_briefly, compare_evaluations
from torchspeed.tuning.laboratory import MOVED, Laboratory
from torchspeed.tuning.prove import Evidence, Reference, gather, prove_close, prove_exact, prove_scores
from torchspeed.tuning.result import Tried
from torchspeed.tuning.trial import Trial, TrialFailed

ALPHA = 0.02
LEAST_GAIN = 1.015
LEAST_LUCK = 0.03
MOST_PROCESS_PAIRS = 6
LONGEST_COMPARISON = 0.1
START_NOISE = 0.5


@dataclass
class Judge:
    """Compares trials with one another and with the job as written.

    memory: bytes that a plan may use at most. noise: how far two processes of a plan are apart, as a factor ≥ 1.
    out_of_time: whether what is left of the budget is needed for something else.
    """

    laboratory: Laboratory
    memory: int
    reference: Reference
    noise: float
    budget: float
    out_of_time: Callable[[], bool]

    def judge(
        self, tried: Tried, lever: Lever, trial: Trial, incumbent: Trial, evidence: Evidence
    ) -> tuple[Tried, Evidence]:
        """``tried`` with all that was found out about ``trial``, and the trial's own evidence.

        The questions come in the order of their price. Raises TrialFailed.
        """
        result = self.compare(incumbent, trial, sure=self._beyond_luck())
        peak = trial.ask("memory", self.laboratory.limit)["bytes"]
        tried = replace(tried, interval=result.interval, first_seconds=trial.first_seconds, peak_memory=peak)
        if result.interval is None or result.undecided:
            return replace(tried, why=UNDECIDED), evidence
        if result.faded:
            return replace(tried, why="faster in its first steps only"), evidence
        if not result.faster:
            slower = result.interval.high < 1
            return replace(tried, why="slower" if slower else "no gain that can be told from noise"), evidence
        if peak > self.memory:
            why = f"uses {_gib(peak)}, more than the {_gib(self.memory)} that are allowed"
            return replace(tried, why=why), evidence
        pays, why = pays_back(incumbent, trial, result.interval.ratio)
        if not pays:
            return replace(tried, why=why), evidence
        shown, evidence = self.proof(lever, trial, evidence)
        tried = replace(tried, proof=shown.sentence)
        if not shown.holds:
            return replace(tried, why="it does not keep the result"), evidence
        if result.interval.low < self._beyond_luck():
            whole, verdict = self._in_fresh_processes(incumbent.plan, trial.plan, result.interval)
            tried = replace(tried, interval=whole)
            if verdict is not Verdict.FASTER:
                why = f"measured in {whole.n} pairs of fresh processes, of which a gain needs at least four"
                return replace(tried, why=why if whole.n < 4 else "fresh processes differ by as much"), evidence
        return replace(tried, kept=True, why=why or "faster and still right"), evidence

    def judge_evaluations(self, tried: Tried, trial: Trial, incumbent: Trial) -> Tried:
        """The same for a lever that acts on evaluations alone."""
        weights = str(self.reference.evidence.folder / MOVED)
        result, ours, theirs = compare_evaluations(
            incumbent, trial, weights, self._deadline(), alpha=ALPHA, gain=LEAST_GAIN
        )
        tried = replace(tried, interval=result.interval)
        if result.undecided:
            return replace(tried, why=UNDECIDED)
        if not result.faster:
            return replace(tried, why="evaluations are not faster")
        shown = prove_scores(ours, theirs)
        why = f"evaluations are faster; the job has {trial.ready['evaluations']}" if shown.holds else "another result"
        return replace(tried, proof=shown.sentence, kept=shown.holds, why=why)

    def compare(
        self, incumbent: Trial, candidate: Trial, sure: float = 1.0, seconds: float | None = None
    ) -> Comparison:
        """Until the interval decides, or ``seconds`` are over: by default those that a comparison may take."""
        steps = self.laboratory.block_steps
        deadline = self._deadline() if seconds is None else time.monotonic() + max(seconds, 3.0)
        return compare(incumbent, candidate, steps, deadline, alpha=ALPHA, gain=LEAST_GAIN, sure=sure)

    def proof(self, lever: Lever, trial: Trial, evidence: Evidence) -> tuple[Proof, Evidence]:
        """Of the guarantee of ``lever``, added to what gave ``evidence``; and the evidence of ``trial``."""
        batches = trial.ready["batches_per_epoch"]
        own = gather(trial, self.laboratory.weights, batches, self.laboratory.limit)
        try:
            if lever.guarantee is Guarantee.EXACT:
                return prove_exact(own, evidence, self.reference), own
            return prove_close(own, self.reference, data=lever.stage is Stage.DATA), own
        except (KeyError, ValueError, RuntimeError) as error:  # weights or batches of another kind altogether
            return Proof(False, f"it cannot be compared with the job as written: {error}"), own

    def _in_fresh_processes(self, ours: Plan, theirs: Plan, first: Interval) -> tuple[Interval, Verdict]:
        """Equal processes differ by their luck with memory: a small gain must show in several pairs."""
        pairs = [first]
        while True:
            verdict = decide(pairs, least_gain=LEAST_GAIN, alpha=ALPHA, most_process_pairs=MOST_PROCESS_PAIRS)
            if verdict is not Verdict.UNDECIDED or self.out_of_time():
                return combine(pairs), verdict
            try:
                with self.laboratory.open(ours) as one, self.laboratory.open(theirs) as other:
                    again = compare_briefly(one, other, self.laboratory.block_steps, self._deadline())
            except TrialFailed:
                return combine(pairs), verdict
            if again is not None:
                pairs.append(again)

    def _beyond_luck(self) -> float:
        """A factor by which two processes of one plan hardly ever differ, from how far two of them did."""
        return math.exp(4 * max(LEAST_LUCK, math.log(self.noise)))

    def _deadline(self) -> float:
        return time.monotonic() + max(3.0, min(LONGEST_COMPARISON * self.budget, self.laboratory.remaining))


UNDECIDED = "not decided in the time that a trial may take"


def pays_back(incumbent: Trial, trial: Trial, ratio: float) -> tuple[bool, str]:
    """Whether a start that costs more is paid back within the steps of the job; the sentence, if that matters.

    ``ratio``: seconds of a step of ``incumbent`` ÷ those of ``trial``.
    """
    extra = trial.first_seconds - incumbent.first_seconds
    extra += trial.ready["build_seconds"] - incumbent.ready["build_seconds"]
    if extra < START_NOISE:
        return True, ""
    steps = trial.ready["total_steps"]
    per_step = trial.step_seconds * (ratio - 1)
    costs = f"its start costs {extra:.1f} s more"
    if extra >= per_step * steps:
        return False, f"{costs} and it saves {per_step * steps:.1f} s over the {steps} steps of the job"
    return True, f"{costs}, paid back after {extra / per_step:.0f} of {steps} steps"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
