"""The proof of a program: the same draws must give the same pixels as the user's own code, on sampled items."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.fetch import generators_kept, seed_generators
from torchspeed.data.pipeline.device_renderer import DeviceRenderer
from torchspeed.data.pipeline.operation import Unreadable
from torchspeed.data.pipeline.program import Program, one_level
from torchspeed.data.pipeline.renderer import Renderer
from torchspeed.data.random import Keys, sample_keys
from torchspeed.errors import DataError

_EPOCHS = 4  # so that a random step is seen to be right in more than one draw


def prove(
    program: Program,
    transform: Callable[[Any], Any] | None,
    raws: Sequence[Any],
    levels: Sequence[NDArray[np.uint8]],
    items: NDArray[np.int64],
    dtype: torch.dtype | None,
    device: torch.device | None = None,
) -> None:
    """Compare ``program`` on ``levels`` with the user's ``transform`` of ``raws``; ``dtype``: of the result, if given.

    device: runs the program there, on levels of one size; None: on the host.

    Equal bit for bit where the program says that it is exact, otherwise within one level of 255. Raises ``Unreadable``
    with what differs.
    """
    render = _on_host(program, levels) if device is None else _on_device(program, levels, device)
    tolerance = 0.0 if program.exact else one_level(program)
    for epoch in range(_EPOCHS):
        keys = sample_keys(0, epoch, items)
        ours = render(keys)
        for place, key in enumerate(keys.tolist()):
            try:
                with generators_kept():
                    seed_generators(key)
                    theirs = raws[place] if transform is None else transform(raws[place])
            except Exception as error:
                raise DataError(
                    f"sample {items[place]}: the transforms raised {type(error).__name__}: {error}"
                ) from error
            if not isinstance(theirs, Tensor):
                raise Unreadable(f"the transforms give a {type(theirs).__name__}, not a tensor")
            theirs = theirs if dtype is None else theirs.to(dtype)
            if theirs.shape != ours[place].shape or theirs.dtype != ours.dtype:
                raise Unreadable(
                    f"compiled, sample {items[place]} is {ours.dtype} {list(ours[place].shape)}; your code gives "
                    f"{theirs.dtype} {list(theirs.shape)}"
                )
            differs = (theirs.double() - ours[place].double()).abs().max().item()
            if not differs <= tolerance:
                raise Unreadable(
                    f"compiled, sample {items[place]} differs from what your code gives by {differs:.3g} "
                    f"(allowed: {tolerance:.3g})"
                )


def _on_host(program: Program, levels: Sequence[NDArray[np.uint8]]) -> Callable[[Keys], Tensor]:
    renderer = Renderer(program, channels_last=False, pinned=False)
    return lambda keys: renderer.images(list(levels), None, keys)


def _on_device(program: Program, levels: Sequence[NDArray[np.uint8]], device: torch.device) -> Callable[[Keys], Tensor]:
    renderer = DeviceRenderer(program, channels_last=False, device=device)
    there, rows = torch.from_numpy(np.stack(levels)).to(device), np.arange(len(levels))
    return lambda keys: renderer.images(there, rows, keys).cpu()
