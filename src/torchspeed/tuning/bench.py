"""Trials of one rank of a job at any batch size: what each size uses, and that it runs at all.

A rank holds its share of the batch. Each has a device of its own; on a CPU, ranks of one host share its memory and its
cores. One rank is run, and what ranks wait for each other is not counted.

Where memory is the machine's own, the process of a trial may have what is free and no more: it gets an error where the
machine would swap, and if memory is short all the same, the kernel ends the trial and nothing else.
"""

import pickle
import resource
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torchspeed.errors import JobError, PlanError
from torchspeed.facts import Facts
from torchspeed.job import Job
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine, free_memory
from torchspeed.plan import Plan
from torchspeed.tuning.growth import Growth
from torchspeed.tuning.laboratory import MOVED, SHORT_WARM_UP, Laboratory
from torchspeed.tuning.source import Source, write_source
from torchspeed.tuning.trial import Trial, TrialFailed

_USABLE = 0.9
_ANY = 1 << 62


@dataclass(frozen=True)
class Ran:
    """A batch size that was tried. All of it is of one rank; ``why`` it failed, "" if it ran. Seconds are of a step."""

    batch_size: int
    peak_memory: int
    seconds: float
    why: str = ""


class Bench:
    """Opens trials of ``job`` at a batch size per rank; ``growth`` and ``ran`` hold what is known of each.

    memory: bytes that all ranks of this host may use; 0: nearly all that there is. source: as for ``tune``.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan | None,
        device: str | None,
        memory: int,
        budget: float,
        ranks: int,
        source: Source | None,
    ) -> None:
        if not isinstance(job, Job):
            raise JobError(f"found {job!r} where a Job is needed. torchspeed.load_job('job.py') makes one")
        if ranks < 1:
            raise PlanError(f"ranks={ranks}; it is the number of processes that share a batch, at least 1")
        self.job, self.budget, self.ranks, self.source = job, budget, ranks, source
        self.plan = plan or Plan()
        if "batch_size" in dict(self.plan.options):
            raise PlanError("the plan sets batch_size, which is what is asked for; leave it out of the plan")
        self.machine = Machine.detect(device)
        self.device = device
        self.on_cpu = self.machine.device != "cuda"
        self.notes: list[str] = []
        self.ran: list[Ran] = []
        self.complete = True
        self.laboratory: Laboratory
        self._folder: Path
        self._start_seconds = self._seconds_per_sample = 0.0
        self.total = int(_USABLE * (free_memory() if self.on_cpu else self.machine.device_memory)) or _ANY
        allowed = min(memory or _ANY, self.total)
        if memory > self.total:
            self.notes.append(f"{gib(memory)} are allowed and {gib(self.total)} can be had; no size may use more")
        self._share_host(allowed)
        self.growth = Growth(allowed // ranks if self.on_cpu else allowed, _ANY)
        self.rank_size = max(1, job.batch_size // ranks)

    def open(self, size: int) -> Trial | None:
        """A trial after its first steps; None if it failed, which ``ran`` tells.

        Raises JobError if nothing has run so far and the job fails for anything but a lack of memory.
        """
        path = self._folder / f"batch-{size}.pickle"
        path.write_bytes(pickle.dumps(Resized(self._folder / "job.pickle", size, bounded=self.on_cpu)))
        self.laboratory.source = path
        try:
            trial = self.laboratory.open(self.plan)
            block = trial.block(1, self.laboratory.limit)
            peak = trial.ask("memory", self.laboratory.limit)["bytes"]
        except TrialFailed as failed:
            self._failed(size, failed)
            return None
        (trial.folder / MOVED).unlink(missing_ok=True)
        self.laboratory.warm_up_steps = SHORT_WARM_UP
        self._start_seconds, self._seconds_per_sample = trial.start_seconds, block.seconds / block.samples
        if not self.growth.peaks:
            self._learn(trial, size)
        held = block.samples if trial.ready["batches_per_epoch"] == 1 else size
        self.growth.most = min(self.growth.most, held) if held < size else self.growth.most
        self.growth.peaks[held] = peak
        self.ran.append(Ran(held, peak, block.seconds))
        return trial

    def close(self, trial: Trial) -> None:
        """End a trial."""
        self.laboratory.close(trial)

    def in_time(self, size: int) -> bool:
        """Whether the budget reaches for a trial of ``size``, which takes at most as long per sample as the last."""
        steps_seconds = (SHORT_WARM_UP + 1) * size * self._seconds_per_sample
        if self.complete and self._start_seconds + steps_seconds <= self.laboratory.remaining:
            return True
        if self.complete:
            self.complete = False
            self.notes.append(
                f"the budget of {self.budget:.0f} s did not reach for a batch of {size * self.ranks:,}; "
                "what is said here is what was known by then"
            )
        return False

    def __enter__(self) -> "Bench":
        with ExitStack() as stack:
            self._folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="torchspeed-batch-", ignore_cleanup_errors=True))
            )
            write_source(self.source or self.job, self._folder / "job.pickle")
            deadline = time.monotonic() + self.budget
            self.laboratory = stack.enter_context(
                Laboratory(self._folder, self._folder / "job.pickle", self.machine, self.device, deadline)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def _share_host(self, allowed: int) -> None:
        if self.ranks == 1:
            return
        if not self.on_cpu:
            self.notes.append(
                f"each of {self.ranks} ranks has a device like this one; one was run, communication left out"
            )
            return
        shared = f"{self.ranks} ranks on this host share its memory ({gib(allowed // self.ranks)} each)"
        if "threads" not in dict(self.plan.options):
            share = max(1, self.machine.cores // self.ranks)
            counts = REGISTRY["threads"].options(Facts(), self.machine)[1:]
            self.plan = self.plan.with_option("threads", max(int(count) for count in counts if int(count) <= share))
        threads = dict(self.plan.options)["threads"]
        self.notes.append(f"{shared} and cores ({threads} threads each); one was run, communication left out")

    def _learn(self, trial: Trial, size: int) -> None:
        """How large a batch there are data for, and what became of the plan."""
        batches = trial.ready["batches_per_epoch"]
        if self.ranks == 1 and not self.job.drop_last:
            self.growth.most = batches * size  # what the last batch lacks shows when all are in one
        else:
            full = batches if self.job.drop_last else batches - 1
            self.growth.most = max(size, full * size // self.ranks)
        self.notes += trial.ready["skipped"]

    def _failed(self, size: int, failed: TrialFailed) -> None:
        asked = f"batch size {size * self.ranks:,}"
        if not self.growth.peaks and not failed.memory:
            if failed.timed_out:
                raise JobError(
                    f"at {asked} the job did not get through its first steps within the budget of {self.budget:.0f} s "
                    f"({failed}); give a larger --budget, or data that open faster"
                ) from failed
            raise JobError(f"at {asked} the job fails: {failed}; nothing else was tried") from failed
        self.growth.failed.add(size)
        self.ran.append(Ran(size, 0, 0.0, f"lack of memory: {failed}" if failed.memory else str(failed)))
        if failed.timed_out:
            self.complete = False
            self.notes.append(f"{asked}: {failed}; larger ones were not tried")


@dataclass(frozen=True)
class Resized:
    """Makes the job in the file ``path`` with another batch size, in a trial's process.

    bounded: from then on the process may have what memory is free, and no more.
    """

    path: Path
    batch_size: int
    bounded: bool

    def __call__(self) -> Job:
        if self.bounded:
            keep_to_free_memory()
        with self.path.open("rb") as file:
            made = pickle.load(file)  # written by the process that asked
        job = made if isinstance(made, Job) else made()
        return replace(job, batch_size=self.batch_size)


def keep_to_free_memory() -> None:
    """This process gets an error where it wants more memory than is free now; no other is ended in its place."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        data = 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (data + free_memory(), hard))


def gib(count: int) -> str:
    """Bytes as text."""
    return f"{count / 2**30:.2f} GiB"
