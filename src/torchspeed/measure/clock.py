"""What time it is for whoever does the work.

A CPU has done an operation when the call returns, so a moment is a reading of the process's clock. A GPU works through
a queue that the process fills ahead of it: the process's clock says when work was ordered, not when it was done, and
waiting for the GPU to find out empties the queue, which is another step than the one that is trained with. So a moment
there is an event in the queue, stamped by the GPU as it passes; events are read out when all is over. The time between
two of them includes any in which the queue was empty: after a batch that came late, that gap *is* the wait for data.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html, "Asynchronous execution".
"""

import time
from collections.abc import Callable, Hashable
from itertools import pairwise
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Marks:
    """A list of moments; each closes the time since the one before it, under a label. Marking waits for nothing.

    On devices other than a CPU or a CUDA GPU a mark does wait: their events cannot be compared.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._now: Callable[[], Any] = {"cpu": time.perf_counter, "cuda": self._event}.get(device.type, self._waited)
        self._labels: list[Hashable] = []
        self._moments: list[Any] = []

    def start(self) -> None:
        """Time counts from here, the device being idle; what was not read is forgotten."""
        self._labels, self._moments = [], []
        synchronize(self.device)
        self._moments.append(self._now())

    def __call__(self, label: Hashable) -> None:
        """What was done since the last mark is over; it goes under ``label``."""
        self._moments.append(self._now())
        self._labels.append(label)

    def read(self) -> list[tuple[Any, float]]:
        """(label, seconds) for each mark since ``start``, in order. Waits for the device."""
        synchronize(self.device)
        return list(zip(self._labels, (self._between(*pair) for pair in pairwise(self._moments)), strict=True))

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _waited(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def _between(self, begin: Any, end: Any) -> float:
        if self.device.type == "cuda":
            return float(begin.elapsed_time(end)) / 1e3
        return float(end - begin)
