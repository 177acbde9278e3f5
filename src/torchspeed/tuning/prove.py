"""The proof of a guarantee: what a trial did, held against the job as written.

What is held against what: the batches, at several places of the epoch and at its very end; losses, gradients and
movements of single steps from equal weights, through the step that was timed, after it was timed; a step with a
learning rate of zero; how far the first steps moved the weights; a few batches of the evaluation; the loss curve of all
timed steps, against the spread between seeds where it is off. EXACT asks for equal bits, against the plan that the
lever was added to.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torchspeed.measure import proof
from torchspeed.measure.evidence import Steps, Stream
from torchspeed.measure.proof import Proof
from torchspeed.tuning.laboratory import MOVED
from torchspeed.tuning.trial import Trial


@dataclass(frozen=True)
class Evidence:
    """What a trial did. ``curve``: losses of its steps from the first on; ``steps``: single ones from equal weights;
    ``settings``: the numbers of its optimizer; ``parameters``: their names."""

    folder: Path
    stream: Stream
    steps: Steps
    curve: tuple[float, ...]
    evaluation: dict[str, Any] | None
    settings: dict[str, Any]
    parameters: tuple[str, ...]


@dataclass
class Reference:
    """The job as written, and how far it agrees with itself.

    reproducible: two processes gave the same bits. rounding: relative difference of the gradients when weights and
    inputs are rounded to bfloat16. noise: that between two seeds of the generators, 0 where nothing is drawn.
    other_seeds: makes the loss curves of other seeds, when needed.
    """

    evidence: Evidence
    weights: Path
    reproducible: bool
    rounding: float
    noise: float
    other_seeds: Callable[[int], list[list[float]]]
    _spreads: dict[int, float] = field(default_factory=dict)

    def seed_spread(self, steps: int) -> float:
        """The largest distance of the loss curves of other seeds from this one, over ``steps`` steps."""
        if steps not in self._spreads:
            curves = self.other_seeds(steps)
            distances = [proof.curve_distance(self.evidence.curve[:steps], curve) for curve in curves]
            self._spreads[steps] = max(distances, default=0.0)
        return self._spreads[steps]


def gather(trial: Trial, weights: Path, batches_per_epoch: int, timeout: float) -> Evidence:
    """Evidence of a trial that was warmed up and timed, its weights after the first steps saved as ``MOVED``."""
    curve = tuple(trial.losses)
    stream = trial.ask("stream", timeout, length=batches_per_epoch, folder=str(trial.folder))
    steps = trial.ask("gradients", timeout, weights=str(weights), folder=str(trial.folder))
    return Evidence(
        folder=trial.folder,
        stream=Stream.from_dict(stream),
        steps=Steps.from_dict(steps),
        curve=curve,
        evaluation=trial.ask("evaluate", timeout, weights=str(weights)),
        settings=trial.ready["settings"],
        parameters=tuple(trial.ready["parameters"]),
    )


def prove_exact(candidate: Evidence, incumbent: Evidence, reference: Reference) -> Proof:
    """Same bits as ``incumbent``; up to the reference's own spread where that is not the same bits with itself."""
    if not reference.reproducible:
        close = prove_close(candidate, reference, data=False)
        return Proof(close.holds, f"the job as written does not repeat its own bits, so: {close.sentence}")
    own = reference.evidence
    problem = (
        proof.streams(own.stream, candidate.stream)
        or proof.settings(own.settings, candidate.settings)
        or proof.updates(own.steps, candidate.steps)
        or proof.evaluations(incumbent.evaluation, candidate.evaluation, exact=True)
    )
    if problem:
        return Proof(False, problem)
    if candidate.steps.losses != incumbent.steps.losses:
        return Proof(False, "losses at equal weights are not the same bits")
    compared = proof.gradients(incumbent.folder, candidate.folder, len(candidate.steps.losses))
    if not compared.equal:
        return Proof(False, compared.problem or f"gradients are not the same bits: off by {_percent(compared.error)}")
    steps = min(len(candidate.curve), len(incumbent.curve))
    for number, (ours, theirs) in enumerate(zip(incumbent.curve, candidate.curve, strict=False), 1):
        if ours != theirs:
            return Proof(False, f"the loss of step {number} is {theirs!r} instead of {ours!r}")
    batches = len(candidate.stream.glimpses)
    return Proof(True, f"same bits: {batches} batches, {len(candidate.steps.losses)} gradients, {steps} losses")


def prove_close(candidate: Evidence, reference: Reference, *, data: bool) -> Proof:
    """Same up to rounding. ``data``: the values of the batches may differ by a rounding as well."""
    own = reference.evidence
    problem = (
        (proof.order(own.stream, candidate.stream) if data else proof.streams(own.stream, candidate.stream))
        or (_batches(own, candidate) if data else "")
        or proof.settings(own.settings, candidate.settings)
        or proof.moved(reference.weights, own.folder / MOVED, candidate.folder / MOVED, own.parameters)
        or proof.updates(own.steps, candidate.steps)
        or proof.evaluations(own.evaluation, candidate.evaluation, exact=False)
    )
    wrong = proof.not_finite([*candidate.curve, *candidate.steps.losses])
    if wrong and not problem:
        problem = f"the loss of step {wrong} is not finite"
    if problem:
        return Proof(False, problem)
    error, bound, problem = _gradients(candidate, reference)
    if problem:
        return Proof(False, problem)
    losses = proof.losses_at_equal_weights(own.steps.losses, candidate.steps.losses)
    loss_bound = proof.LOSS + 2 * reference.noise
    if not losses <= loss_bound:
        return Proof(False, f"losses at equal weights are off by {_percent(losses)} (bound {_percent(loss_bound)})")
    return _curve(candidate, reference, f"gradients within {_percent(error)} of {_percent(bound)}")


def prove_scores(reference: dict[str, float], candidate: dict[str, float]) -> Proof:
    """Metric and loss of whole evaluations at equal weights, up to rounding; two samples may change their class."""
    for name in ("metric", "loss"):
        ours, theirs = reference[name], candidate[name]
        allowed = max(proof.LOSS * abs(ours), 2 / max(reference["samples"], 1), 1e-5)
        if not abs(theirs - ours) <= allowed and not (math.isnan(ours) and math.isnan(theirs)):
            return Proof(False, f"the {name} of an evaluation at equal weights is {theirs:.5g} instead of {ours:.5g}")
    if reference["samples"] != candidate["samples"]:
        return Proof(False, f"it evaluates on {candidate['samples']} samples instead of {reference['samples']}")
    return Proof(True, f"the evaluation gives {candidate['metric']:.5g}, as written {reference['metric']:.5g}")


def _batches(own: Evidence, candidate: Evidence) -> str:
    for path in sorted(own.folder.glob("batch-*.safetensors")):
        problem = proof.batches(path, candidate.folder / path.name)
        if problem:
            return problem
    return ""


def _gradients(candidate: Evidence, reference: Reference) -> tuple[float, float, str]:
    """How far gradients are off, how far they may be, and what is wrong.

    First with the same draws; where a lever draws otherwise, the means of all batches, with what other draws do.
    """
    own = reference.evidence
    count = len(own.steps.losses)
    bound = proof.gradient_bound(reference.rounding)
    compared = proof.gradients(own.folder, candidate.folder, count)
    if not compared.problem and compared.error <= bound:
        return compared.error, bound, ""
    if reference.noise > 0 and not compared.problem:
        compared = proof.gradients(own.folder, candidate.folder, count, average=True)
        bound = proof.gradient_bound(reference.rounding, reference.noise / math.sqrt(count))
        if compared.error <= bound:
            return compared.error, bound, ""
    off = f"gradients at equal weights are off by {_percent(compared.error)} of their norm (bound {_percent(bound)})"
    return compared.error, bound, compared.problem or off


def _curve(candidate: Evidence, reference: Reference, agrees: str) -> Proof:
    own = reference.evidence.curve
    steps = min(len(own), len(candidate.curve))
    distance = proof.curve_distance(own, candidate.curve)
    size = abs(fmean(own[steps // 2 : steps]))
    if distance <= proof.CURVE * size:
        return Proof(True, f"{agrees}, the loss curve within {_percent(distance / size if size else 0)}")
    spread = reference.seed_spread(steps)
    if distance <= 1.5 * spread:
        return Proof(True, f"{agrees}, the loss curve within the spread between seeds")
    return Proof(
        False,
        f"after {steps} steps the loss is off by {distance:.3g}, while other seeds are off by {spread:.3g}",
    )


def _percent(share: float) -> str:
    return f"{share:.2%}" if math.isfinite(share) and share < 10 else f"{share:.3g} times"
