"""What a step waits for most, how fast it could be at best, and what fixing each part would gain at most.

The floor of a step is what its floating-point operations and its least bytes take at the rates that were measured on
this machine, and what its batch takes to be copied to the device; waiting for data, and everything else, could be
nothing. What is above the floor can be gained, and no more: if a part of a step of ``s`` seconds takes ``p`` and its
floor is ``f``, fixing it makes the step ``s / (s - p + f)`` times as fast (Amdahl, 1967).

Computing is bound by the largest of three: multiplying at the matrix rate, moving bytes at the bandwidth of the memory
(Williams et al., "Roofline", CACM 2009), or starting operations one by one, each of which costs some microseconds
whatever its size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torchspeed.engine.step import BACKWARD, FORWARD, OPTIMIZER, TRANSFER
from torchspeed.lever import Bound
from torchspeed.measure.figures import milliseconds, percent
from torchspeed.measure.limits import Limits
from torchspeed.measure.parts import DATA, STEP
from torchspeed.measure.work import StepWork

COMPUTING = (FORWARD, BACKWARD, OPTIMIZER, STEP)

# Which part of the time is said to be explained by a limit, when it takes most of it.
MOST = 0.5
MUCH = 0.1


@dataclass(frozen=True)
class Verdict:
    """``bound``: what the step waits for most. ``because``: the sentence with the figures that say so."""

    bound: Bound
    because: str


def floors(parts: Mapping[str, float], work: StepWork | None, limits: Limits, transfer_bytes: int) -> dict[str, float]:
    """Part -> the least seconds that it can take on this machine; never more than it did take.

    work: None where it could not be counted; the floors of computing are then not known, and left out.
    transfer_bytes: of the batch that are copied to the device; 0 where the batch is there.
    """
    least = dict.fromkeys(parts, 0.0)
    if transfer_bytes and limits.host_to_device:
        least[TRANSFER] = transfer_bytes / limits.host_to_device
    if work is not None:
        least |= {FORWARD: work.forward.limit_seconds(limits), BACKWARD: work.backward.limit_seconds(limits)}
        least |= {OPTIMIZER: work.optimizer.limit_seconds(limits), STEP: work.total.limit_seconds(limits)}
    unknown = COMPUTING if work is None else ()
    return {part: min(least[part], seconds) for part, seconds in parts.items() if part not in unknown}


def bounds(parts: Mapping[str, float], least: Mapping[str, float]) -> dict[str, float]:
    """Part -> how many times as fast the step would be at most if this part alone ran at its floor."""
    step = sum(parts.values())
    return {part: step / max(step - parts[part] + floor, 1e-9) for part, floor in least.items()}


def verdict(parts: Mapping[str, float], work: StepWork | None, limits: Limits) -> Verdict:
    """The largest of waiting for data, transfer and computing; for computing, the limit that explains most of it."""
    step = sum(parts.values())
    data, transfer = parts.get(DATA, 0.0), parts.get(TRANSFER, 0.0)
    computing = sum(parts.get(part, 0.0) for part in COMPUTING)
    if data >= max(transfer, computing):
        return Verdict(Bound.DATA, f"waiting for data is {percent(data / step)} of a step")
    if transfer >= computing:
        return Verdict(Bound.TRANSFER, f"copying batches to the device is {percent(transfer / step)} of a step")
    if work is None:
        return Verdict(
            Bound.COMPUTE,
            f"forward, backward and optimizer are {percent(computing / step)} of a step; their work is not known",
        )
    return _computing_verdict(computing, work, limits)


def worth_moving(found: Verdict, shares: Mapping[str, float]) -> frozenset[Bound]:
    """The bound, and waiting for data where that is much of a step as well."""
    return frozenset({found.bound} | ({Bound.DATA} if shares.get(DATA, 0.0) >= MUCH else set()))


def _computing_verdict(computing: float, work: StepWork, limits: Limits) -> Verdict:
    total = work.total
    least = total.limit_seconds(limits)
    multiplying, moving = total.compute_seconds(limits), total.memory_seconds(limits)
    starting = total.operations * limits.dispatch_seconds
    if starting >= max(multiplying, moving):
        bound, spent = Bound.OVERHEAD, starting
        what = f"starting {total.operations:,} operations takes"
    elif multiplying >= moving:
        bound, spent = Bound.COMPUTE, multiplying
        what = f"{total.total_flops / 1e9:.3g} GFLOP of products at the measured rate take"
    else:
        bound, spent = Bound.MEMORY, moving
        what = f"moving {total.bytes / 1e6:.3g} MB at the measured bandwidth takes"
    told = f"{what} {milliseconds(spent)} of the {milliseconds(computing)} ms in forward, backward and optimizer"
    if spent < MOST * computing:
        explained = max(least, starting)
        told += f"; the kernels take {computing / max(explained, 1e-12):.1f}× what the limits explain: see the modules"
    return Verdict(bound, told)
