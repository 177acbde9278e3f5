"""SIGTERM and Ctrl-C as a request that the loop answers between two steps, so that no state is torn."""

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """A context; ``requested()`` becomes true at the first signal. Later ones change nothing: saving goes on."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        return self.received is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
