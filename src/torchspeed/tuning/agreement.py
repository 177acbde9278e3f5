"""How far the job as written agrees with itself: in speed, in its bits, under other draws, under a rounding."""

import math
from dataclasses import dataclass
from statistics import median

from torchspeed.errors import JobError
from torchspeed.measure import proof
from torchspeed.plan import Plan
from torchspeed.tuning.laboratory import Laboratory
from torchspeed.tuning.prove import Evidence, Reference, gather
from torchspeed.tuning.trial import Trial, TrialFailed

SAME_PAIRS = 6
FEW_BATCHES = 3
OTHER_SEEDS = 2


@dataclass(frozen=True)
class Difference:
    """Two trials of one plan: how far apart, as a factor ≥ 1; and their median seconds per sample."""

    factor: float
    seconds: float


def difference(laboratory: Laboratory, first: Trial, second: Trial) -> Difference:
    """Interleaved blocks of two trials of one plan."""
    ratios: list[float] = []
    seconds: list[float] = []
    for turn in range(SAME_PAIRS):
        pair = [first, second] if turn % 2 == 0 else [second, first]
        timed = {id(one): one.block(laboratory.block_steps, laboratory.limit).seconds_per_sample for one in pair}
        ratios.append(timed[id(first)] / timed[id(second)])
        seconds += timed.values()
    ratio = median(ratios)
    return Difference(max(ratio, 1 / ratio), median(seconds))


def agreement(laboratory: Laboratory, first: Trial, second: Trial, notes: list[str]) -> Reference:
    """What every candidate is held against, from two trials as written that took the same number of steps.

    Raises JobError if the losses are not finite. What keeps the proof from being strict goes to ``notes``.
    """
    own = gather(second, laboratory.weights, first.ready["batches_per_epoch"], laboratory.limit)
    wrong = proof.not_finite([*own.curve, *own.steps.losses])
    if wrong:
        raise JobError(f"as written, the loss is not finite within its first {len(own.curve)} steps; nothing was tried")
    few = min(FEW_BATCHES, len(own.steps.losses))

    def compared(name: str, **how: int) -> proof.Gradients:
        folder = laboratory.folder / name
        folder.mkdir()
        first.ask("gradients", laboratory.limit, weights=str(laboratory.weights), folder=str(folder), count=few, **how)
        return proof.gradients(second.folder, folder, few, numbers=_numbers(own, few))

    repeated = compared("again")
    reproducible = tuple(first.losses) == own.curve and repeated.equal
    rounded, drawn = compared("rounded", rounded=True), compared("other-seed", seed=1)
    noise = 0.0 if drawn.equal else drawn.error
    if not reproducible:
        noise = max(noise, repeated.error)
        notes.append(
            "as written, two processes with the same seed do not give the same bits "
            f"(gradients off by {repeated.error:.2g}); that much is allowed to every lever"
        )
    rounding = 0.0 if rounded.problem or not math.isfinite(rounded.error) else rounded.error

    def other_seeds(steps: int) -> list[list[float]]:
        return [curve for seed in range(1, OTHER_SEEDS + 1) if (curve := _curve(laboratory, seed, steps, notes))]

    return Reference(own, laboratory.weights, reproducible, rounding, noise, other_seeds)


def _numbers(own: Evidence, few: int) -> list[int]:
    """Which of the reference's gradients are those of a shorter list: the first ones, and the last."""
    return [*range(few - 1), len(own.steps.losses) - 1]


def _curve(laboratory: Laboratory, seed: int, steps: int, notes: list[str]) -> list[float]:
    """The losses of the job as written with another seed; none where it fails or diverges."""
    try:
        with laboratory.open(Plan(), seed=seed) as trial:
            while trial.steps < steps:
                trial.block(min(steps - trial.steps, laboratory.block_steps), laboratory.limit)
    except TrialFailed as failed:
        notes.append(f"with seed {seed} the job fails as written: {failed}")
        return []
    return [] if proof.not_finite(trial.losses[:steps]) else trial.losses[:steps]
