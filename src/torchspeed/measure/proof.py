"""Whether what one run did agrees with what another did: bit for bit, or up to rounding.

How much a rounding does depends on the model: computing in bf16 moves the gradient of a small transformer by 0.7 % of
its norm, that of a ResNet-20 fresh from its initialisation by 20 %, and both train well. So the bound is that of a
backward error analysis: a computation is as good as its format if its result is the exact one of data that are off
by a rounding. Weights and inputs are rounded to bf16, everything is computed as written, and the gradient may be off
by three times what that does. Measured over nine models: computing in bf16 does 1.1 to 2.6 times as much, rounding
the layers' outputs to 2 bits of mantissa 4 to 19 times.

Bit for bit is asked of EXACT levers where the reference is bit for bit the same with itself; where it is not (atomic
sums on a GPU), nothing can be, and the reference's own spread is the tolerance.

Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.5, on backward errors.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from torchspeed.measure.evidence import Steps, Stream

Evaluated = dict[str, Any] | None

GRADIENT = 3.0
LEAST_GRADIENT, MOST_GRADIENT = 0.002, 0.5
NEGLIGIBLE = 1e-5
LOSS = 0.02
BATCH = 0.1
DISPLACEMENT = (0.7, 1.4)
ONE_STEP = (0.4, 2.5)
CURVE = 0.01


@dataclass(frozen=True)
class Proof:
    """``holds``, and the sentence why or why not."""

    holds: bool
    sentence: str


@dataclass(frozen=True)
class Gradients:
    """How far gradients are from the reference's: ``error`` is the norm of the difference ÷ the norm, of all batches
    together; ``worst``: the largest of single batches. ``problem``: what cannot be a rounding."""

    error: float
    worst: float
    cosine: float
    equal: bool
    problem: str = ""


def streams(reference: Stream, candidate: Stream) -> str:
    """What is wrong with the candidate's stream of batches; "" if its batches are the reference's, bit for bit."""
    wrong = order(reference, candidate)
    if wrong:
        return wrong
    for ours, theirs in zip(reference.glimpses, candidate.glimpses, strict=True):
        if ours.digest != theirs.digest:
            return f"batch {ours.number} of epoch {ours.epoch} is another one"
    return ""


def order(reference: Stream, candidate: Stream) -> str:
    """What is wrong with number and sizes of the candidate's batches, or with when they change."""
    if (candidate.length, candidate.samples) != (reference.length, reference.samples):
        return (
            f"an epoch has {candidate.length} batches of {candidate.samples} samples instead of {reference.length} "
            f"of {reference.samples}"
        )
    if candidate.batches_at_the_end != reference.batches_at_the_end:
        return (
            f"the end of the epoch has {candidate.batches_at_the_end} batches, as written it has "
            f"{reference.batches_at_the_end}"
        )
    if len(candidate.glimpses) != len(reference.glimpses):
        return f"{len(candidate.glimpses)} batches came where as written {len(reference.glimpses)} came"
    for ours, theirs in zip(reference.glimpses, candidate.glimpses, strict=True):
        place = f"batch {theirs.number} of epoch {theirs.epoch}"
        if theirs.samples != ours.samples:
            return f"{place} has {theirs.samples} samples instead of {ours.samples}"
        if theirs.changed:
            return f"{place} was overwritten while it was in use"
    return ""


def settings(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    """What is wrong with the candidate's optimizer; "" if it updates by the same numbers."""
    for name in [*reference, *(name for name in candidate if name not in reference)]:
        ours, theirs = reference.get(name), candidate.get(name)
        alike = isinstance(ours, float) and isinstance(theirs, float) and math.isclose(ours, theirs, rel_tol=1e-6)
        if ours != theirs and not alike and not (ours != ours and theirs != theirs):
            return f"{name} is {theirs} instead of {ours}"
    return ""


def batches(reference: Path, candidate: Path) -> str:
    """What is wrong with the candidate's first batch, close in floating point and equal in integers; "" if nothing."""
    ours, theirs = load_file(reference), load_file(candidate)
    if ours.keys() != theirs.keys():
        return f"a batch has {len(theirs)} tensors instead of {len(ours)}"
    for name, tensor in ours.items():
        other = theirs[name]
        if other.shape != tensor.shape:
            return f"tensor {name} of a batch is {tuple(other.shape)} instead of {tuple(tensor.shape)}"
        if not tensor.is_floating_point():
            if not torch.equal(other, tensor):
                return f"the integers of tensor {name} of a batch differ"
            continue
        spread = tensor.double().std().item() or 1.0
        error = (other.double() - tensor.double()).square().mean().sqrt().item()
        if not error <= BATCH * spread:
            return f"tensor {name} of a batch is off by {error / spread:.0%} of its spread"
    return ""


def gradients(
    reference: Path, candidate: Path, count: int, *, average: bool = False, numbers: Sequence[int] | None = None
) -> Gradients:
    """Compare the gradients of ``count`` batches in two folders.

    average: compare their means, for steps that draw at random whatever is done. numbers: which of the reference's
    they are, if not the same.
    """
    total = [0.0, 0.0, 0.0]  # |difference|², |reference|², |candidate|²
    worst, equal, dot = 0.0, True, 0.0
    sums: list[dict[str, Tensor]] = [{}, {}]
    for number in range(count):
        ours = load_file(reference / f"gradient-{number if numbers is None else numbers[number]}.safetensors")
        theirs = load_file(candidate / f"gradient-{number}.safetensors")
        norm = math.sqrt(sum(_square(tensor) for tensor in ours.values()))
        lost = [name for name in ours.keys() - theirs.keys() if math.sqrt(_square(ours[name])) > NEGLIGIBLE * norm]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            return Gradients(1, 1, 0, False, f"no gradient for {sorted(lost)[0]}{more} in step {number + 1}")
        new = sorted(theirs.keys() - ours.keys())
        if new:
            return Gradients(1, 1, 0, False, f"{new[0]} has a gradient and as written has none")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in theirs.values()):
            return Gradients(1, 1, 0, False, f"gradients are not finite in step {number + 1}")
        for name in ours.keys() & theirs.keys():
            if not theirs[name].any() and math.sqrt(_square(ours[name])) > NEGLIGIBLE * norm:
                return Gradients(1, 1, 0, False, f"the gradient of {name} is zero in step {number + 1}")
        equal &= ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        if average:
            for into, tensors in zip(sums, (ours, theirs), strict=True):
                for name, tensor in tensors.items():
                    into[name] = into[name] + tensor.float() if name in into else tensor.float()
            continue
        parts = _compared(ours, theirs)
        worst = max(worst, _relative(parts[0], parts[1]))
        total = [a + b for a, b in zip(total, parts, strict=False)]
        dot += parts[3]
    if average:
        *total, dot = _compared(*sums)
        worst = _relative(total[0], total[1])
    cosine = dot / math.sqrt(total[1] * total[2]) if total[1] and total[2] else float(total[1] == total[2])
    return Gradients(_relative(total[0], total[1]), worst, cosine, equal)


def gradient_bound(rounding: float, noise: float = 0.0) -> float:
    """How far gradients may be off, where rounding weights and inputs does ``rounding``, other draws ``noise``."""
    return min(MOST_GRADIENT, max(LEAST_GRADIENT, GRADIENT * rounding) + 1.5 * noise)


def updates(reference: Steps, candidate: Steps) -> str:
    """What is wrong with how far single steps from equal weights move the candidate's weights; "" if nothing."""
    if reference.still == 0 and candidate.still != 0:
        return "it moves the weights with a learning rate of zero, so it does not follow the schedule"
    for number, (ours, theirs) in enumerate(zip(reference.distances, candidate.distances, strict=False), 1):
        if ours and math.isfinite(ours) and not ONE_STEP[0] * ours <= theirs <= ONE_STEP[1] * ours:
            return f"step {number} from equal weights moves them {theirs / ours:.2f} times as far"
    return ""


def evaluations(reference: Evaluated, candidate: Evaluated, *, exact: bool) -> str:
    """What is wrong with an evaluation at equal weights: how much is evaluated, and what it gives; "" if nothing."""
    if reference is None or candidate is None:
        return "" if reference is candidate else "it evaluates on nothing"
    for name in ("length", "samples"):
        if candidate[name] != reference[name]:
            kind = "batches" if name == "length" else "samples"
            return f"it evaluates on {candidate[name]} {kind} instead of {reference[name]}"
    if candidate["sums"] == reference["sums"]:
        return ""
    if exact:
        return "evaluations at equal weights are not the same bits"
    for ours, theirs in zip(reference["sums"], candidate["sums"], strict=True):
        if (ours[1], ours[3]) != (theirs[1], theirs[3]):
            return "evaluations count other samples"
        for kind, place in (("metric", 0), ("loss", 2)):
            allowed = LOSS * abs(ours[place]) + (2 if kind == "metric" else 1e-6)
            if not (abs(theirs[place] - ours[place]) <= allowed or (theirs[place] != theirs[place] != ours[place])):
                return f"the {kind} of an evaluation at equal weights is off by {abs(theirs[place] - ours[place]):.3g}"
    return ""


def moved(start: Path, reference: Path, candidate: Path, parameters: Iterable[str]) -> str:
    """What is wrong with how far the first steps moved the candidate's ``parameters`` from ``start``; "" if nothing."""
    before, ours, theirs = load_file(start), load_file(reference), load_file(candidate)
    paths, there = {}, {}
    for name in parameters:
        if not (name in before and name in ours and name in theirs):
            continue
        if theirs[name].dtype != ours[name].dtype:
            return f"{name} is kept in {theirs[name].dtype} instead of {ours[name].dtype}".replace("torch.", "")
        if before[name].shape == ours[name].shape == theirs[name].shape:
            paths[name] = _distance(before[name], ours[name])
            there[name] = _distance(before[name], theirs[name])
    whole = math.sqrt(sum(value**2 for value in paths.values()))
    ratio = math.sqrt(sum(value**2 for value in there.values())) / whole if whole else 1.0
    if not DISPLACEMENT[0] <= ratio <= DISPLACEMENT[1]:
        return f"the first steps moved the weights {ratio:.2f} times as far"
    for name, distance in there.items():
        if paths[name] > 0.01 * whole and distance < 0.3 * paths[name]:
            return f"the first steps moved {name} {distance / paths[name]:.2f} times as far"
        if paths[name] > NEGLIGIBLE * whole and distance == 0:
            return f"the first steps did not move {name}"
    return ""


def losses_at_equal_weights(reference: Sequence[float], candidate: Sequence[float]) -> float:
    """The largest difference ÷ the mean size of the reference's losses; infinite if one is not finite."""
    size = fmean(abs(loss) for loss in reference) or 1.0
    off = [abs(a - b) / size for a, b in zip(reference, candidate, strict=True)]
    return max(off) if all(map(math.isfinite, off)) else math.inf


def curve_distance(reference: Sequence[float], candidate: Sequence[float]) -> float:
    """How far two loss curves are apart over the second half of the steps that both have: means, absolute."""
    n = min(len(reference), len(candidate))
    half = n // 2
    distance = abs(fmean(candidate[half:n]) - fmean(reference[half:n]))
    return distance if math.isfinite(distance) else math.inf


def not_finite(losses: Sequence[float]) -> int:
    """The number of the first step, from 1, whose loss is not finite; 0 if there is none."""
    return next((number for number, loss in enumerate(losses, 1) if not math.isfinite(loss)), 0)


def _compared(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, float, float, float]:
    """Squared norms of the difference, of ours and of theirs, and the scalar product; what is missing is zero."""
    difference = first = second = product = 0.0
    for name, tensor in ours.items():
        a = tensor.double()
        b = theirs[name].double() if name in theirs else torch.zeros_like(a)
        difference += (a - b).square().sum().item()
        first += a.square().sum().item()
        second += b.square().sum().item()
        product += (a * b).sum().item()
    return difference, first, second, product


def _relative(difference: float, norm: float) -> float:
    return math.sqrt(difference / norm) if norm else (0.0 if difference == 0 else math.inf)


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm())
