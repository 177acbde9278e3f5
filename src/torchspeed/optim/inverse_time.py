"""Inverse-time decay: ``lr / (1 + decay_rate · t)``.

The rate that the analysis of stochastic approximation asks for: steps that sum to infinity while their
squares do not. Safe where the noise of the gradient dominates; slow where a network could still go on at a
high rate.

Source: Robbins & Monro, "A Stochastic Approximation Method", Annals of Mathematical Statistics 22 (1951).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class InverseTime:
    """Factor on the learning rate at step ``t``, for ``LambdaLR``; ``decay_rate`` is per step."""

    decay_rate: float

    def __post_init__(self) -> None:
        if not self.decay_rate >= 0:
            raise ValueError(f"decay_rate is {self.decay_rate}; it must be at least 0")

    def __call__(self, t: int) -> float:
        return 1.0 / (1.0 + self.decay_rate * t)
