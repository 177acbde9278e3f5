"""Stable, then decay: the second and third part of warm-up–stable–decay.

Most of the run is at the full rate, and the loss falls steeply in a short decay at the end. Unlike a cosine,
the plateau does not depend on the length of the run: a run can be prolonged from before its decay, and one
plateau gives many decayed models. The shape "sqrt" (``1 - √x``) ends a little lower than "linear" in the
second source.

Source: Hu et al., "MiniCPM", 2024 (arXiv 2404.06395), section 4; Hägele et al., "Scaling Laws and
Compute-Optimal Training Beyond Fixed Training Durations", 2024 (arXiv 2405.18392).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StableDecay:
    """Factor on the learning rate at step ``t``, for ``LambdaLR``: 1, then down to 0 at step ``steps``."""

    steps: int
    decay_steps: int
    shape: str = "linear"

    def __post_init__(self) -> None:
        if not 0 < self.decay_steps <= self.steps:
            raise ValueError(
                f"decay_steps is {self.decay_steps}; it must lie in 1..{self.steps}, the part after warm-up"
            )
        if self.shape not in ("linear", "sqrt"):
            raise ValueError(f"shape is {self.shape!r}; it must be one of: linear, sqrt")

    def __call__(self, t: int) -> float:
        done = min(max(0.0, (t - (self.steps - self.decay_steps)) / self.decay_steps), 1.0)
        return 1.0 - (done if self.shape == "linear" else math.sqrt(done))
