"""What a sample holds beside its image (mostly a label), for all samples, gathered a batch at a time."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from torchspeed.batch import map_tensors
from torchspeed.data.pipeline.operation import Unreadable
from torchspeed.data.pipeline.parcel import send
from torchspeed.data.sources.source import Hole


@final
class Rest:
    """``samples``: N samples with a ``Hole`` in place of the image. Raises ``Unreadable`` if they cannot be batched.

    What stands in a batch is what PyTorch's ``default_collate`` makes of it.
    """

    def __init__(self, samples: Sequence[Any]) -> None:
        self._places = _places(samples[0])
        try:
            self.columns = default_collate([_filled(sample) for sample in samples])
        except (TypeError, RuntimeError, KeyError) as error:
            raise Unreadable(f"beside the image a sample holds what cannot be put into one batch: {error}") from error
        if not all_tensors(self.columns):
            raise Unreadable("beside the image a sample holds texts or other things that are not numbers")

    def move(self, device: torch.device) -> None:
        """The batches will be there."""
        self.columns = map_tensors(self.columns, lambda column: column.to(device))

    def batch(self, indices: NDArray[np.int64], images: Any) -> Any:
        """The samples ``indices`` with ``images`` (a tensor [B, …], or what a transform gives else) in their place."""
        on_device = isinstance(images, Tensor) and images.device.type != "cpu"
        where = send([indices], images.device)[0] if on_device else torch.from_numpy(indices)
        batch = map_tensors(self.columns, lambda column: column.index_select(0, where))
        return _put(batch, self._places, images)


def _filled(sample: Any) -> Any:
    """A number in place of the hole."""
    if isinstance(sample, Hole):
        return 0
    if isinstance(sample, dict):
        return {key: _filled(part) for key, part in sample.items()}
    if isinstance(sample, tuple) and hasattr(sample, "_fields"):
        return type(sample)(*map(_filled, sample))
    return type(sample)(map(_filled, sample)) if isinstance(sample, (tuple, list)) else sample


def _places(sample: Any) -> tuple[Any, ...] | None:
    """Keys and positions that lead to the hole, or None."""
    if isinstance(sample, Hole):
        return ()
    parts = (
        sample.items() if isinstance(sample, dict) else enumerate(sample) if isinstance(sample, (tuple, list)) else ()
    )
    for key, part in parts:
        inner = _places(part)
        if inner is not None:
            return (key, *inner)
    return None


def _put(batch: Any, places: tuple[Any, ...] | None, images: Any) -> Any:
    assert places is not None, "a sample without its image"
    if not places:
        return images
    key, inner = places[0], places[1:]
    if isinstance(batch, tuple):
        parts = list(batch)
        parts[key] = _put(parts[key], inner, images)
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    batch[key] = _put(batch[key], inner, images)
    return batch


def all_tensors(columns: Any) -> bool:
    if isinstance(columns, dict):
        return all(map(all_tensors, columns.values()))
    if isinstance(columns, (tuple, list)):
        return all(map(all_tensors, columns))
    return isinstance(columns, Tensor)
