"""``DeviceStore``: the images of a dataset in the memory of the device that trains on them.

50 000 images of CIFAR-10 are 150 MB, and a GPU reads its own memory a hundred times faster than the host can send
anything to it. So they are sent once, and from then on only the numbers that a batch is made with.
"""

from typing import final

import numpy as np
import torch
from torch import Tensor

from torchspeed.data.pipeline.stores import ArrayStore
from torchspeed.machine import free_memory

_CHUNK_BYTES = 1 << 26


@final
class DeviceStore:
    """``levels``: uint8 [N, H, W, C] on ``device``, image ``i`` in row ``i``."""

    def __init__(self, images: ArrayStore, device: torch.device) -> None:
        levels, rows = images.levels, images.rows
        count = len(levels) if rows is None else len(rows)
        self.levels: Tensor = torch.empty((count, *levels.shape[1:]), dtype=torch.uint8, device=device)
        together = max(1, _CHUNK_BYTES // max(1, levels[0].nbytes))
        for start in range(0, count, together):
            chunk = slice(start, min(count, start + together))
            part = np.array(levels[chunk] if rows is None else levels[rows[chunk]], order="C")
            self.levels[chunk].copy_(torch.from_numpy(part))


def why_not_on_device(
    device: torch.device, sizes: set[tuple[int, ...]], total_bytes: int, budget_bytes: int | None, in_ram: bool
) -> str | None:
    """A sentence why images of ``sizes`` are not kept on ``device``, or None. ``in_ram``: they lie there already."""
    if device.type != "cuda":
        return f"it is for CUDA devices, whose memory is their own; the batches are for {device}"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if len(sizes) > 1:
        found = " and ".join(" × ".join(map(str, size[:2])) for size in sorted(sizes)[:2])
        return f"it is for images of one size; found {found}"
    granted = torch.cuda.mem_get_info(device)[0] // 2 if budget_bytes is None else budget_bytes
    if total_bytes > granted:
        return f"all of it, {total_bytes / 1e9:.1f} GB, is more than the {granted / 1e9:.1f} GB granted on {device}"
    if not in_ram and total_bytes > free_memory() // 2:
        return f"all of it, {total_bytes / 1e9:.1f} GB, is computed in RAM first, which has too little room"
    return None
