"""One encoded image to levels, the same bits as Pillow gives, in threads that do not wait for one another.

Pillow opens a small JPEG in 50 µs of Python, for which threads compete. libjpeg-turbo called directly (package
simplejpeg) takes a sixth of that and no lock; both are the same library underneath, so the levels are equal bit for
bit, and whatever simplejpeg refuses (a warning of the decoder is an error there) is left to Pillow to judge.

A JPEG can also be decoded at 1/2, 1/4 or 1/8 of its side: the inverse cosine transform of each 8×8 block is taken
over its lowest 4×4, 2×2 or 1×1 frequencies alone. That is a box filter in the frequency domain and costs less than
decoding all and shrinking; it is close to that, not equal. Source: ITU-T T.81 (the transform, A.3.3; the markers,
annex B) and the documentation of libjpeg-turbo, "scale_num, scale_denom".
"""

import functools
import io
import operator
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchspeed.errors import DataError, MissingPackage

Mode = Literal["RGB", "L"]
Levels = NDArray[np.uint8]
Kind = tuple[str, bool]

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
MAX_PIXELS = 178_956_970  # where Pillow, too, takes a header for an attack: 512 MB of RGB

_FORMATS = ("JPEG", "PNG", "WEBP")
_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG, DAC
_MODES_OF_COMPONENTS = {1: "L", 3: "RGB"}


class Header(NamedTuple):
    """What a file says of its image; ``height`` and ``width`` in pixels.

    ``mode``: as Pillow names it: "RGB", "L", "CMYK", "P", "RGBA", "I;16", … ``turned``: EXIF asks for a rotation or
    a mirror image.
    """

    format: str
    mode: str
    turned: bool
    height: int
    width: int

    @property
    def kind(self) -> Kind:
        """Code that loads images treats those of equal kind alike; what it does with another kind is not known."""
        return self.mode, self.turned


def read_header(data: bytes, name: Callable[[], str]) -> Header:
    """The header of a JPEG (5 µs; 100 with EXIF data), PNG or WebP (as long as decoding it: EXIF may come last).

    Raises ``DataError`` for another file, and for one that declares more than ``MAX_PIXELS``.
    """
    header = _jpeg_header(data, name)
    if header is None:
        with _opened(data, name) as image:
            header = _header_of(image)
    return header


def decode(data: bytes, mode: Mode, name: Callable[[], str]) -> Levels:
    """uint8 [H, W, C], equal to ``PIL.Image.open(file).convert(mode)``; C is 3 for "RGB" and 1 for "L".

    EXIF rotation is not applied, as that does not. ``name()`` names the image in errors. Raises ``DataError`` for a
    file that is torn, hostile or not a JPEG, PNG or WebP; ``MissingPackage`` without Pillow where it is needed.
    """
    levels = decode_kinds(data, mode, name, None)
    assert levels is not None  # of whatever kind it is
    return levels


def decode_kinds(data: bytes, mode: Mode, name: Callable[[], str], kinds: Collection[Kind] | None) -> Levels | None:
    """``decode``, or None if the image is not of one of these kinds (None: of any)."""
    header = _jpeg_header(data, name)
    if header is not None:
        if kinds is not None and header.kind not in kinds:
            return None
        levels = _decode_jpeg(data, header, mode)
        if levels is not None:
            return levels
    with _opened(data, name) as image:
        levels = _as_levels(image, mode)
        return levels if kinds is None or _header_of(image).kind in kinds else None


def decode_scaled(data: bytes, mode: Mode, name: Callable[[], str], at_least: tuple[int, int]) -> tuple[Levels, int]:
    """(levels, factor): the image at 1/8, 1/4, 1/2 or all of its side, the least that is still ``at_least``.

    ``at_least``: (height, width) in pixels; uint8 [ceil(H / factor), ceil(W / factor), C], where each pixel stands for
    ``factor``² of the image, also where H or W is no multiple. Factor 1 is ``decode``, as is any image that is not a
    JPEG. Errors are those of ``decode``.
    """
    header = _jpeg_header(data, name)
    factor = 1 if header is None else _factor(header, at_least)
    if header is None or factor == 1:
        return decode(data, mode, name), 1
    levels = _decode_jpeg(data, header, mode, factor)
    if levels is None:
        with _opened(data, name) as image:
            image.draft(None, (max(1, header.width // factor), max(1, header.height // factor)))
            levels = _as_levels(image, mode)
            factor = next(f for f in (8, 4, 2, 1) if _scaled(header, f) == levels.shape[:2])
    return levels, factor


@contextmanager
def _opened(data: bytes, name: Callable[[], str]) -> Iterator[Any]:
    """An image opened by Pillow, whose many exceptions become one ``DataError`` that names the image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackage("pillow", extra="images", why="decodes PNG, WebP and unusual JPEG images") from error
    torn = (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.height, image.width, name)
            yield image
    except (*torn, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name()}: cannot be decoded as JPEG, PNG or WebP ({error}); replace or remove it") from error


def _header_of(image: Any) -> Header:
    turned = image.getexif().get(ORIENTATION, 1) not in (0, 1)
    return Header(image.format, image.mode, turned, image.height, image.width)


def _check_size(height: int, width: int, name: Callable[[], str]) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{name()}: the header declares {width}×{height} pixels, more than {MAX_PIXELS:,}; "
            "it is damaged or hostile: remove it, or make the image smaller"
        )


def _as_levels(image: Any, mode: Mode) -> Levels:
    levels = np.array(image if image.mode == mode else image.convert(mode))
    return levels if levels.ndim == 3 else levels[:, :, None]


def _decode_jpeg(data: bytes, header: Header, mode: Mode, factor: int = 1) -> Levels | None:
    """By libjpeg-turbo itself, or None where that is not the same as by Pillow, or not to be had."""
    decode_jpeg = _simplejpeg()
    same = header.mode in ("L", mode)  # Pillow weighs colours into grey in its own way, and has its own CMYK
    if decode_jpeg is None or not same:
        return None
    height, width = _scaled(header, factor)
    colours = "RGB" if mode == "RGB" else "GRAY"
    try:
        levels: Levels = decode_jpeg(data, colours, min_height=height, min_width=width, min_factor=factor)
    except ValueError:
        return None
    return levels if levels.shape[:2] == (height, width) else None


@functools.cache
def _simplejpeg() -> Callable[..., Levels] | None:
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return decode_jpeg  # type: ignore[no-any-return]


def _factor(header: Header, at_least: tuple[int, int]) -> int:
    enough = (f for f in (8, 4, 2) if all(map(operator.ge, _scaled(header, f), at_least)))
    return next(enough, 1)


def _scaled(header: Header, factor: int) -> tuple[int, int]:
    return -(-header.height // factor), -(-header.width // factor)


def _jpeg_header(data: bytes, name: Callable[[], str]) -> Header | None:
    """The header of a JPEG, None for another file."""
    if data[:2] != b"\xff\xd8":
        return None
    header = _walk_markers(data)
    if header is None:
        with _opened(data, name) as image:
            header = _header_of(image)
    _check_size(header.height, header.width, name)
    return header


def _walk_markers(data: bytes) -> Header | None:
    """From marker to marker up to the frame; None if there are EXIF data or anything else that Pillow should judge."""
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _FRAME_MARKERS:
            precision, height, width, components = struct.unpack_from(">BHHB", data, place + 4)
            if precision != 8 or not height or not width or components not in _MODES_OF_COMPONENTS:
                return None
            return Header("JPEG", _MODES_OF_COMPONENTS[components], False, height, width)
        with_length = 0xC0 <= marker <= 0xFE and not 0xD0 <= marker <= 0xDA
        if not with_length or marker == 0xE1:  # APP1 holds EXIF or XMP, and either may turn the image
            return None
        place += 2 + length
    return None
