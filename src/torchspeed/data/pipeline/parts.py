"""``Parts``: datasets one after the other (``ConcatDataset``), each compiled by itself."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.batched import batch_of_several
from torchspeed.data.pipeline.compiled import Compiled
from torchspeed.data.pipeline.settings import Row
from torchspeed.data.random import Keys


@final
class Parts(Compiled):
    """Sample ``i`` is sample ``place[i]`` of ``parts[part[i]]``; ``part``, ``place``: int64 [N]."""

    def __init__(self, parts: Sequence[Compiled], part: NDArray[np.int64], place: NDArray[np.int64]) -> None:
        rows = [Row(f"{n}: {row.what}", row.where, row.why) for n, one in enumerate(parts, 1) for row in one.rows]
        super().__init__(len(part), rows)
        self.parts, self.part, self.place = list(parts), part, place

    def batch(self, indices: NDArray[np.int64], keys: Keys) -> Any:
        self.prepare()
        return batch_of_several(self.parts, self.part[indices], self.place[indices], keys)

    def _build(self) -> None:
        for part in self.parts:
            part.prepare()
        self.threads = all(part.threads for part in self.parts)
