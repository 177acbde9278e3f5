"""A loader that takes its order from somebody's PyTorch ``DataLoader`` and makes the batches itself.

A job's order follows from (seed, epoch). A loop of one's own has an order already: drawn by its sampler, from a
generator that the script has seeded, perhaps shared out over ranks. It is kept, draw for draw: PyTorch takes one number
for its workers and then lets the sampler draw, and so does this; after a pass the generator stands where it would have
stood. Workers that persist keep the number of their first pass, so later passes take none. Only how the samples are
made is open to levers: compiled, in threads, ahead.

Random transforms draw from a key for each sample, made of that one number: another draw than with PyTorch's loader, as
with another number of workers there, and the same again under the same ``torch.manual_seed``.
"""

from collections.abc import Iterator, Sized
from typing import Any, final

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate

from torchspeed.batch import map_tensors
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.source import as_dataset
from torchspeed.errors import NotApplicable, TorchspeedError


@final
class SameOrderLoader:
    """Iterate it in the place of ``loader``; what else it is asked for, ``loader`` answers.

    ordered: what levers act on.
    Raises ``NotApplicable`` with the sentence why ``loader`` stays as it is.
    """

    def __init__(self, loader: "DataLoader[Any]") -> None:
        if isinstance(loader.dataset, IterableDataset):
            raise NotApplicable("the loader's dataset is iterable: it makes its order itself, sample after sample")
        if type(loader.batch_sampler) is not BatchSampler or loader.batch_size is None:
            raise NotApplicable("the loader's batches are cut by a batch sampler of its own, or not at all")
        if not isinstance(loader.sampler, Sized):
            raise NotApplicable(f"the loader's sampler, a {type(loader.sampler).__name__}, has no length")
        _check_nothing_is_lost(loader)
        self._loader = loader
        self._stays = loader.persistent_workers and loader.num_workers > 0
        self._passes = 0
        self._order = _Drawn(len(loader.sampler))
        try:
            self.ordered = OrderedLoader(
                as_dataset(loader.dataset, "loader"),
                loader.batch_size,
                drop_last=loader.drop_last,
                collate=None if loader.collate_fn is default_collate else loader.collate_fn,
                workers=loader.num_workers,
                prefetch=loader.prefetch_factor or 2,
                sampler=self._order,
            )
        except TorchspeedError as error:
            raise NotApplicable(f"the loader cannot be read: {error}") from error

    def __len__(self) -> int:
        return len(self.ordered)

    def __iter__(self) -> Iterator[Any]:
        loader = self._loader
        epoch = self._passes if self._stays else 0  # where the number stays, keys differ by the epoch
        if epoch == 0:
            self.ordered.seed = int(torch.empty((), dtype=torch.int64).random_(generator=loader.generator))
        self._passes += 1
        self._order.indices = [int(index) for index in loader.sampler]
        batches = self.ordered.epoch(epoch)
        if loader.pin_memory and torch.cuda.is_available():
            return (map_tensors(batch, torch.Tensor.pin_memory) for batch in batches)
        return batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_loader"], name)


def _check_nothing_is_lost(loader: "DataLoader[Any]") -> None:
    """Raises NotApplicable where ``loader`` does what another one would not."""
    kind = type(loader)
    own = [name for name in ("__iter__", "_get_iterator") if getattr(kind, name) is not getattr(DataLoader, name)]
    if own:
        raise NotApplicable(f"the loader is a {kind.__name__}, which makes its batches in its own way ({own[0]})")
    names = ("worker_init_fn", "multiprocessing_context", "timeout")
    told = [name for name in names if getattr(loader, name)]
    if told:
        raise NotApplicable(f"the loader's {' and '.join(told)} would be lost: only PyTorch's workers heed it")


@final
class _Drawn:
    """Indices that were drawn already, as a sampler."""

    def __init__(self, count: int) -> None:
        self.indices = list(range(count))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
