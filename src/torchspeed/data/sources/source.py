"""``Source``: a dataset taken apart, into what its transform is given and what else its samples hold.

The compiler works on images, the user's dataset gives samples; a source is the seam. It says what the transform of
the user is given for item ``i`` (an image, by the user's own code), where that image lies if it lies in memory, and
what else the sample holds (mostly a label).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.decode import Kind, Mode

Holds = Literal["pil", "uint8 tensor", "float tensor", "uint8 array"]


class Opaque(Exception):
    """A dataset cannot be taken apart, with the sentence why. Not an error: it is loaded as it is written."""


@dataclass(frozen=True)
class Hole:
    """Stands in a sample where the image was."""


class Source(ABC):
    """N raw images, before the user's transform, and the rest of each sample.

    transform: the user's own transform of the image, or None.
    holds: what the transform is given: a PIL image, a tensor [C, H, W] or an array [H, W, C] or [H, W].
    mode: "RGB" for 3 channels, "L" for 1, as far as was looked; None where images differ in it, or have other values
        than 8-bit levels. Where it is None, ``raw`` alone says what an image is.
    kind: one or two words for the table, such as "CIFAR10 array" or "JPEG files".
    levels: uint8 [M, H, W, C], the raw images where they lie in memory (nothing is copied), or None.
    rows: int64 [N], the row of ``levels`` that is raw image ``i`` (a subset of a dataset); None: row ``i``.
    encoded: ``i -> bytes`` of the JPEG, PNG or WebP that the raw image is decoded from, or None.
    kinds: of the encoded images, ``decode.Header.kind``; only for these has the user's code been seen to give what
        ``decode`` gives. What it does with another (grey among colours, or turned by EXIF) ``raw`` alone says.
    compared: of how many samples levels, encoded images and rests were seen to be what the user's code gives.
    """

    transform: Callable[[Any], Any] | None
    holds: Holds
    mode: Mode | None
    kind: str
    levels: NDArray[np.uint8] | None = None
    rows: NDArray[np.int64] | None = None
    encoded: Callable[[int], bytes] | None = None
    kinds: frozenset[Kind] = frozenset()
    compared: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def raw(self, index: int) -> tuple[Any, Any]:
        """(what the transform is given, the sample with ``Hole()`` in place of the image), by the user's own code.

        One thread at a time runs that code. Raises ``DataError`` naming the sample if the code raises, or treats
        this sample in another way than those that were looked at.
        """

    @abstractmethod
    def image(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, C]: what ``raw`` gives, the quickest way that gives the same levels; any number of threads.

        Where ``mode`` is not None. Raises ``DataError`` for an image of another mode, or that cannot be decoded.
        """

    @abstractmethod
    def rest(self, index: int) -> Any | None:
        """The sample with ``Hole()`` in place of the image where it is known without loading the image, or None."""

    @abstractmethod
    def identity(self) -> str | None:
        """A digest that changes whenever the raw images may have changed, or None where nobody can tell.

        The rest of the samples (labels) is not in it. Images that lie in memory are read for it, files are looked at.
        """
