"""The proof of a guarantee: what a trial did, held against the job as written.

What is held against what: the batches, at several places of the epoch and at its very end; losses and gradients of the
first batches at equal weights, through the step that was timed, after it was timed; how far the first steps moved the
weights; and the loss curve of all timed steps, against the spread between seeds where it is off. EXACT asks for equal
bits, against the plan that the lever was added to.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torchspeed.measure import proof
from torchspeed.measure.evidence import Stream
from torchspeed.measure.proof import Proof
from torchspeed.tuning.laboratory import MOVED
from torchspeed.tuning.trial import Trial


@dataclass(frozen=True)
class Evidence:
    """What a trial did. ``curve``: losses of its steps from the first on; ``losses``: those at equal weights;
    ``settings``: the numbers of its optimizer."""

    folder: Path
    stream: Stream
    losses: tuple[float, ...]
    curve: tuple[float, ...]
    settings: dict[str, Any]


@dataclass
class Reference:
    """The job as written, and how far it agrees with itself.

    reproducible: two processes gave the same bits. rounding: relative difference of the gradients when weights and
    inputs are rounded to bfloat16. noise: relative difference of the mean gradients between two seeds
    of the generators, 0 where nothing is drawn. other_seeds: makes the loss curves of other seeds, when needed.
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
    answer = trial.ask("stream", timeout, length=batches_per_epoch, folder=str(trial.folder))
    losses = trial.ask("gradients", timeout, weights=str(weights), folder=str(trial.folder))["losses"]
    return Evidence(trial.folder, Stream.from_dict(answer), tuple(losses), curve, trial.ready["settings"])


def prove_exact(candidate: Evidence, incumbent: Evidence, reference: Reference) -> Proof:
    """Same bits as ``incumbent``; up to the reference's own spread where that is not the same bits with itself."""
    if not reference.reproducible:
        close = prove_close(candidate, reference, data=False)
        return Proof(close.holds, f"the job as written does not repeat its own bits, so: {close.sentence}")
    problem = proof.streams(reference.evidence.stream, candidate.stream)
    problem = problem or proof.settings(reference.evidence.settings, candidate.settings)
    if problem:
        return Proof(False, problem)
    if candidate.losses != incumbent.losses:
        return Proof(
            False, f"losses at equal weights are not the same bits ({_first_difference(candidate, incumbent)})"
        )
    compared = proof.gradients(incumbent.folder, candidate.folder, len(candidate.losses))
    if not compared.equal:
        return Proof(False, compared.problem or f"gradients are not the same bits: off by {_percent(compared.error)}")
    steps = min(len(candidate.curve), len(incumbent.curve))
    for number, (ours, theirs) in enumerate(zip(incumbent.curve, candidate.curve, strict=False), 1):
        if ours != theirs:
            return Proof(False, f"the loss of step {number} is {theirs!r} instead of {ours!r}")
    batches = len(candidate.stream.glimpses)
    return Proof(True, f"same bits: {batches} batches, {len(candidate.losses)} gradients, {steps} losses")


def prove_close(candidate: Evidence, reference: Reference, *, data: bool) -> Proof:
    """Same up to rounding. ``data``: the values of the batches may differ by a rounding as well."""
    own = reference.evidence
    problem = proof.order(own.stream, candidate.stream) if data else proof.streams(own.stream, candidate.stream)
    problem = problem or proof.settings(own.settings, candidate.settings)
    problem = problem or proof.moved(reference.weights, own.folder / MOVED, candidate.folder / MOVED)
    if not problem and data:
        problem = proof.batches(own.folder / "batch.safetensors", candidate.folder / "batch.safetensors")
    if problem:
        return Proof(False, problem)
    if len(candidate.losses) != len(own.losses):
        return Proof(False, f"{len(candidate.losses)} losses came where as written {len(own.losses)} came")
    average = reference.noise > 0
    compared = proof.gradients(own.folder, candidate.folder, len(own.losses), average=average)
    bound = proof.gradient_bound(reference.rounding, reference.noise)
    if compared.problem:
        return Proof(False, compared.problem)
    if not compared.error <= bound:
        return Proof(
            False,
            f"gradients at equal weights are off by {_percent(compared.error)} of their norm (bound {_percent(bound)})",
        )
    losses = proof.losses_at_equal_weights(own.losses, candidate.losses)
    loss_bound = proof.LOSS + (2 * reference.noise if average else 0)
    if not losses <= loss_bound:
        return Proof(False, f"losses at equal weights are off by {_percent(losses)} (bound {_percent(loss_bound)})")
    steps = min(len(own.curve), len(candidate.curve))
    distance = proof.curve_distance(own.curve, candidate.curve)
    size = abs(fmean(own.curve[steps // 2 : steps]))
    agrees = f"gradients within {_percent(compared.error)}, losses within {_percent(losses)}"
    if distance <= proof.CURVE * size:
        return Proof(True, f"{agrees}, the loss curve within {_percent(distance / size if size else 0)}")
    spread = reference.seed_spread(steps)
    if distance <= 1.5 * spread:
        return Proof(True, f"{agrees}, the loss curve within the spread between seeds")
    return Proof(
        False,
        f"after {steps} steps the loss is off by {distance:.3g}, while other seeds are off by {spread:.3g}",
    )


def prove_scores(reference: dict[str, float], candidate: dict[str, float]) -> Proof:
    """Metric and loss of an evaluation at equal weights, up to rounding."""
    for name in ("metric", "loss"):
        ours, theirs = reference[name], candidate[name]
        off = abs(theirs - ours)
        if not off <= proof.LOSS * max(abs(ours), 1e-3):
            return Proof(False, f"the {name} of an evaluation at equal weights is {theirs:.5g} instead of {ours:.5g}")
    return Proof(True, f"the evaluation gives {candidate['metric']:.5g}, as written {reference['metric']:.5g}")


def _first_difference(candidate: Evidence, incumbent: Evidence) -> str:
    pairs = zip(incumbent.losses, candidate.losses, strict=False)
    for number, (ours, theirs) in enumerate(pairs):
        if ours != theirs:
            return f"batch {number}: {theirs!r} instead of {ours!r}"
    return f"{len(candidate.losses)} instead of {len(incumbent.losses)}"


def _percent(share: float) -> str:
    return f"{share:.2%}" if math.isfinite(share) and share < 10 else f"{share:.3g} times"
