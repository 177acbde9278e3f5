"""Arrays on their way to a device: together, in one copy that nobody waits for.

A copy costs ten microseconds to start, whatever it carries, and one from memory that the system may move is waited for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNED = 16  # bytes, as vector loads want it


def send(arrays: Sequence[NDArray[Any] | Tensor], device: torch.device) -> list[Tensor]:
    """``arrays`` on ``device``. Tensors among them are there already and stay as they are."""
    parts = [None if isinstance(array, Tensor) else np.ascontiguousarray(array) for array in arrays]
    lengths = [0 if part is None else -(-part.nbytes // _ALIGNED) * _ALIGNED for part in parts]
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    # PyTorch gives page-locked memory out again only after the copies from it have ended.
    parcel = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    inside = parcel.numpy()
    for part, start in zip(parts, starts, strict=False):
        if part is not None:
            inside[start : start + part.nbytes] = part.reshape(-1).view(np.uint8)
    there = parcel.to(device, non_blocking=True)
    sent = []
    for array, part, start in zip(arrays, parts, starts, strict=False):
        if part is None:
            assert isinstance(array, Tensor)
            sent.append(array)
        else:
            dtype = torch.from_numpy(np.empty(0, part.dtype)).dtype
            sent.append(there[start : start + part.nbytes].view(dtype).view(part.shape))
    return sent
