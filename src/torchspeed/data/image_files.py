"""Decode encoded images of one size into a single uint8 tensor.

An image is decoded once, before training, and kept as bytes: 3 bytes per pixel, so the 60 000 images of CIFAR-10
are 184 MB, and decoding them takes about 55 µs each. Threads were measured and lose: with images this small
most of the time is Pillow's own Python, for which they compete.
"""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.errors import DataError, MissingPackage

_FORMATS = ("JPEG", "PNG")
_SUFFIXES = (".png", ".jpg", ".jpeg")


class LabelledImages(NamedTuple):
    """``images``: uint8 [N, H, W, C]; ``labels``: int64 [N]."""

    images: Tensor
    labels: Tensor


def decode_images(
    sources: Sequence[bytes | Path], name: Callable[[int], str], size: tuple[int, int] | None = None
) -> Tensor:
    """JPEG or PNG files, or their bytes, as RGB: uint8 [N, height, width, 3].

    ``name(i)`` names source ``i`` in errors. ``size`` is (height, width); without it, that of the first image.
    Raises ``DataError`` for the first image that cannot be decoded or has another size.
    """
    height, width = size or _size(sources[0], name(0))
    pixels = np.empty((len(sources), height, width, 3), np.uint8)
    for i, source in enumerate(sources):
        _decode(source, name(i), pixels[i])
    return torch.from_numpy(pixels)


def read_image_folder(folder: Path) -> tuple[LabelledImages, LabelledImages]:
    """``folder/train/<class>/*.png|jpg`` and ``folder/test/<class>/…``, all images of one size.

    A label is the position of the class in alphabetical order. Raises ``DataError`` naming folder or image.
    """
    classes = _class_names(folder / "train")
    unknown = sorted(set(_class_names(folder / "test")) - set(classes))
    if unknown:
        raise DataError(f"{folder / 'test'}: class {unknown[0]!r} is not in {folder / 'train'}: {', '.join(classes)}")
    train = _read_split(folder / "train", classes, None)
    height, width = train.images.shape[1:3]
    return train, _read_split(folder / "test", classes, (height, width))


def _read_split(folder: Path, classes: list[str], size: tuple[int, int] | None) -> LabelledImages:
    files: list[Path] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        place = folder / class_name
        found = sorted(p for p in place.iterdir() if p.suffix.lower() in _SUFFIXES) if place.is_dir() else []
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{folder}: no image in its class folders; looked for *{', *'.join(_SUFFIXES)}")
    return LabelledImages(decode_images(files, lambda i: str(files[i]), size), torch.tensor(labels))


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; an image folder has train/<class>/ and test/<class>/")
    return sorted(p.name for p in folder.iterdir() if p.is_dir())


def _size(source: bytes | Path, name: str) -> tuple[int, int]:
    with _opened(source, name) as image:
        width, height = image.size
        return int(height), int(width)


def _decode(source: bytes | Path, name: str, into: NDArray[np.uint8]) -> None:
    height, width = into.shape[:2]
    with _opened(source, name) as image:
        if image.size != (width, height):
            found = "{}×{}".format(*image.size)
            raise DataError(f"{name}: an image of {found} pixels where all are {width}×{height}; resize or remove it")
        into[:] = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


@contextmanager
def _opened(source: bytes | Path, name: str) -> Iterator[Any]:
    """An image opened by Pillow, whose many exceptions become one ``DataError`` that names the image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackage("pillow", extra="cifar10", why="decodes JPEG and PNG images") from error
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: cannot be decoded as JPEG or PNG ({error}); replace or remove it") from error
