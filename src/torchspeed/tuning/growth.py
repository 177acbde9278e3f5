"""Which batch size to run next, from the peak memory of those that ran.

Weights, gradients, optimizer state and the program itself are there for any batch; activations come in proportion to
it (Gao et al., "Estimating GPU Memory Consumption of Deep Learning Models", ESEC/FSE 2020). So peak memory over batch
size is a line, and two sizes say where it meets what is allowed, without running anything that does not fit: on a CPU
that would make the whole machine swap. The line may have a kink (a peak while the data were opened hides the first
steps) or bend upwards (a loss over all pairs of a batch), so each size is at most four times one that ran, twice where
no growth was seen so far, and what is answered has run.
"""

from bisect import bisect
from dataclasses import dataclass, field

_FARTHEST = 4
_SEEN_GROWTH = 1.02
_FINEST = 8


def grain(size: int) -> int:
    """Sizes nearer to each other than this are not told apart: one, then eight, then a sixteenth."""
    return 1 if size < 2 * _FINEST else max(_FINEST, size // 16)


@dataclass
class Growth:
    """Sizes that were tried for a memory of ``allowed`` bytes; ``most``: the largest that there are data for.

    peaks: bytes of each size that ran, also of those that used more than is allowed. failed: those that did not run
    for lack of memory.
    """

    allowed: int
    most: int
    peaks: dict[int, int] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    @property
    def largest(self) -> int:
        """The largest that ran within what is allowed; 0 if none did."""
        return max((size for size, peak in self.peaks.items() if peak <= self.allowed), default=0)

    @property
    def too_large(self) -> int:
        """The smallest known not to fit; one more than there are data for if none is."""
        over = [size for size, peak in self.peaks.items() if peak > self.allowed]
        return min([*over, *self.failed, self.most + 1])

    @property
    def beyond(self) -> int:
        """The next size that is told apart from the largest."""
        size = self.largest + grain(self.largest)
        return size if size < 2 * _FINEST else -(-size // _FINEST) * _FINEST

    def predicted(self, size: int) -> int:
        """Bytes that ``size`` will use: on the line through the two sizes about it, or the two nearest to it.

        From one size alone, all of its memory is taken to grow in proportion, which is the most that it can.
        """
        sizes = sorted(self.peaks)
        if not sizes:
            return 0
        if len(sizes) == 1:
            return self.peaks[sizes[0]] * max(size, sizes[0]) // sizes[0]
        place = min(max(bisect(sizes, size), 1), len(sizes) - 1)
        below, above = sizes[place - 1], sizes[place]
        slope = max(0.0, (self.peaks[above] - self.peaks[below]) / (above - below))
        return round(self.peaks[above] + slope * (size - above))

    def next(self) -> int | None:
        """The size to run next; None when what ran is as large as it gets, or nothing fits."""
        low, high = self.largest, self.too_large
        if high - low <= 1:
            return None
        if low == 0:
            return max(1, self._within(0, high - 1) if len(self.peaks) > 1 else high // 2)
        if high in self.failed:
            return _rounded((low + high) // 2) if high - low > grain(low) else None
        size = self._within(low, high - 1 if high in self.peaks else min(self._farthest(low), self.most))
        if size == self.most:
            return size
        size = _rounded(size)
        return size if size - low >= grain(low) else None

    def _farthest(self, low: int) -> int:
        """As far from ``low`` as is prudent while nothing larger was tried."""
        below = [peak for size, peak in self.peaks.items() if size < low]
        safe = _FARTHEST * self.peaks[low] <= self.allowed  # even if all memory grew in proportion
        seen = bool(below) and self.peaks[low] > _SEEN_GROWTH * max(below)
        return (_FARTHEST if safe or seen else 2) * low

    def _within(self, low: int, farthest: int) -> int:
        """The largest size up to ``farthest`` that is predicted to fit."""
        while low < farthest:
            middle = (low + farthest + 1) // 2
            low, farthest = (middle, farthest) if self.predicted(middle) <= self.allowed else (low, middle - 1)
        return low


def _rounded(size: int) -> int:
    return size if size < 2 * _FINEST else size // _FINEST * _FINEST
