"""``Parts``: datasets one after the other (``ConcatDataset``), each compiled by itself."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from torchspeed.data.batched import joined
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
        owner = self.part[indices]
        places = [np.flatnonzero(owner == number) for number in range(len(self.parts))]
        batches = [
            part.batch(self.place[indices[place]], keys[place])
            for number, (part, place) in enumerate(zip(self.parts, places, strict=True))
            if len(place)
        ]
        return joined(batches, torch.from_numpy(np.argsort(np.concatenate(places))))

    def _build(self) -> None:
        for part in self.parts:
            part.prepare()
        self.threads = all(part.threads for part in self.parts)
