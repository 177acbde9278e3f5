"""Data loaded in the training process while a step waits for them.

Without workers a batch is made between two steps: loading and computing take turns, and the time of a step is their
sum. With workers it is the larger of the two, as long as there are cores to spare. So the gain is at most the share of
the step that waits, and nothing where that share is small: starting workers and handing over batches costs, too.
Source: https://docs.pytorch.org/docs/stable/data.html ("Single- and Multi-process Data Loading").
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject

_LARGE = 0.1


def zero_workers(subject: Subject) -> Iterator[Advice]:
    share = subject.shares.get("data", 0.0)
    if share < _LARGE or subject.run.loader.workers:
        return
    cores = subject.machine.cores
    gain = f"{1 / (1 - share):.2f}×" if share < 1 else "any factor"
    workers = max(1, min(cores - 1, 4))
    yield Advice(
        "zero_workers",
        subject.job_line("train"),
        f"batches are loaded in the training process (0 workers), and a step waits for them {share:.0%} of its time",
        f"at most {gain} if data were free",
        f"--set loader_workers={workers} ({cores} core{'s' * (cores != 1)} here), or make a sample cheaper: "
        "torchspeed tune tries both",
    )
