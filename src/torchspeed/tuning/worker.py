"""The process of a trial: it holds one run of one plan and does what it is asked over a pipe, a line of JSON at a time.

Started as ``python -m torchspeed.tuning.worker REQUESTS ANSWERS`` (two inherited pipes) by ``torchspeed.tuning.trial``.
Whatever goes wrong here is an answer; when the pipe closes or the parent is gone, the process ends.
"""

import ctypes
import dataclasses
import json
import os
import pickle
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file

from torchspeed.engine.build import build
from torchspeed.engine.evaluate import evaluate
from torchspeed.engine.guard import preflight
from torchspeed.engine.loop import total_steps
from torchspeed.errors import TorchspeedError
from torchspeed.facts import observe
from torchspeed.job import Job
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine
from torchspeed.measure import evidence
from torchspeed.measure.clock import synchronize
from torchspeed.measure.parts import measure_parts
from torchspeed.measure.stepper import Stepper
from torchspeed.plan import Plan
from torchspeed.tuning.candidates import as_request, candidates

_PR_SET_PDEATHSIG = 1


class HeldRun:
    """One run; each public method is a request, its arguments and its answer are JSON."""

    def __init__(self) -> None:
        self.job: Job
        self.stepper: Stepper

    def start(self, source: str, plan: dict[str, Any], device: str | None, seed: int | None, path: list[str]) -> Any:
        """Load the job and build its run. ``seed``: another one than the job's."""
        sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        began = time.perf_counter()
        with Path(source).open("rb") as file:
            made = pickle.load(file)  # written by our own parent, a moment ago
        job = made if isinstance(made, Job) else made()
        if seed is not None:
            job = dataclasses.replace(job, seed=seed)
        opened = time.perf_counter()
        machine = Machine.detect(device)
        run = build(job, Plan.from_mapping(plan), machine)
        preflight(run, job)
        self.job, self.stepper = job, Stepper(run, job)
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.device)
        steps = total_steps(job, run)
        facts = observe(run, job.batch_size, job.loss)
        return {
            "candidates": as_request(candidates(REGISTRY.values(), facts, machine)),
            "applied": run.applied,
            "skipped": run.skipped,
            "open_seconds": opened - began,
            "build_seconds": time.perf_counter() - opened,
            "settings": evidence.settings(run),
            "parameters": [name for name, _ in run.model.named_parameters()],
            "total_steps": steps,
            "batches_per_epoch": len(run.loader),
            "batch_size": run.loader.batch_size,
            "evaluations": 0 if run.valid is None else -(-steps // (job.evaluate_every or len(run.loader))),
        }

    def save_weights(self, path: str) -> Any:
        """Parameters and buffers as they are now."""
        evidence.save_weights(self.stepper.run, Path(path))
        return {}

    def block(self, steps: int) -> Any:
        """Timed steps."""
        return dataclasses.asdict(self.stepper.block(steps))

    def parts(self, steps: int) -> Any:
        """Where the time of a step goes: seconds of a step and of each part."""
        parts = measure_parts(self.stepper.run, steps=steps, warmup=1)
        return {"seconds": parts.step_seconds, "parts": dict(parts.seconds)}

    def evaluation(self, weights: str) -> Any:
        """One evaluation at ``weights``, timed."""
        run = self.stepper.run
        evidence.put(run.model, load_file(weights, device=str(run.device)))
        synchronize(run.device)
        began = time.perf_counter()
        scores = evaluate(run, self.job)
        assert scores is not None
        return {"seconds": time.perf_counter() - began, **dataclasses.asdict(scores)}

    def stream(self, length: int, folder: str) -> Any:
        """Parts of the stream of batches of epochs that should have ``length`` batches."""
        return evidence.stream(self.stepper.run.loader, length, Path(folder)).as_dict()

    def gradients(self, weights: str, folder: str, **how: Any) -> Any:
        """Single steps from equal weights; their gradients go to the folder."""
        return dataclasses.asdict(evidence.gradients(self.stepper, Path(weights), Path(folder), **how))

    def evaluate(self, weights: str) -> Any:
        """A few batches of an evaluation at equal weights."""
        return evidence.evaluation(self.stepper.run, self.job, Path(weights))

    def memory(self) -> Any:
        """The most bytes in use so far: of the device, or of this process on a CPU."""
        device = self.stepper.run.device
        if device.type == "cuda":
            return {"bytes": torch.cuda.max_memory_reserved(device)}
        return {"bytes": sum(map(_peak, ["self", *_children()])) or _peak_of_unix()}


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer until the pipe closes."""
    held = HeldRun()
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(held, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": _sentence(error), "memory": _is_memory(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _children() -> list[str]:
    """Process ids of the loader's workers."""
    with suppress(OSError):
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return []


def _peak(process: str) -> int:
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return 0


def _peak_of_unix() -> int:
    """Without /proc: bytes on macOS, KiB elsewhere."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _sentence(error: Exception) -> str:
    if isinstance(error, TorchspeedError):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _is_memory(error: BaseException) -> bool:
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _die_with_parent() -> None:
    """Even stopped, this process must not outlive the tuning."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    os.register_at_fork(after_in_child=_die_with_parent)  # workers of the loader, which may be stopped as well
    with os.fdopen(int(sys.argv[1])) as requests, os.fdopen(int(sys.argv[2]), "w") as answers:
        serve(requests, answers)
    os._exit(0)  # threads and worker processes of the user's code must not keep it
