"""What a compiled pipeline is asked for, and what it says of itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

Placement = Literal["auto", "none", "ram", "mapped", "device"]
PLACEMENTS: tuple[Placement, ...] = ("auto", "none", "ram", "mapped", "device")
Decode = Literal["exact", "scaled"]
DECODES: tuple[Decode, ...] = ("exact", "scaled")


@dataclass(frozen=True)
class Settings:
    """placement: where what is computed once is kept. "auto": in the memory of ``device``, if that is a CUDA device,
    the images are of one size and fit into ``budget_bytes``, and the chain is compiled altogether; else in RAM if it
    fits, else in ``cache_dir`` if one is given, else nowhere. "none": nowhere. "ram", "mapped" (a file in
    ``cache_dir``), "device".
    decode: "scaled" decodes a JPEG at 1/2, 1/4 or 1/8 where a crop is shrunk by as much anyway.
    dtype: of the images that come out; None: what the user's transforms give.
    channels_last: how they lie in memory.
    budget_bytes: of RAM, disk or device memory; None: half of what is free.
    """

    placement: Placement = "auto"
    decode: Decode = "exact"
    dtype: torch.dtype | None = None
    channels_last: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache_dir: Path | None = None
    budget_bytes: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: an operation, where it runs, and why there."""

    what: str
    where: str
    why: str
