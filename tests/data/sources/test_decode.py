"""``decode`` gives the bits that Pillow gives, and refuses what is torn or hostile by name."""

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from torchspeed.data import decode as decoding
from torchspeed.data.decode import MAX_PIXELS, decode, decode_kinds, decode_scaled, read_header
from torchspeed.errors import DataError

TURNED = Image.Exif()
TURNED[0x0112] = 6


def name() -> str:
    return "cat.jpg"


def by_pillow(data: bytes, mode: str) -> np.ndarray:
    levels = np.asarray(Image.open(io.BytesIO(data)).convert(mode))
    return levels if levels.ndim == 3 else levels[:, :, None]


@pytest.fixture(scope="module")
def files(picture: Callable[..., Any], encode: Callable[..., bytes]) -> dict[str, bytes]:
    rgb = Image.fromarray(picture(0, 61, 83))
    sixteen_bits = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    return {
        **{f"JPEG {s} {q}": encode(rgb, subsampling=s, quality=q) for s in (0, 1, 2) for q in (40, 95)},
        "progressive": encode(rgb, progressive=True),
        "RGB inside": encode(rgb, keep_rgb=True),
        "one pixel": encode(rgb.crop((0, 0, 1, 1))),
        "grey": encode(rgb.convert("L")),
        "CMYK": encode(rgb.convert("CMYK")),
        "turned": encode(rgb, exif=TURNED),
        "PNG": encode(rgb, "PNG"),
        "alpha": encode(rgb.convert("RGBA"), "PNG"),
        "palette": encode(rgb.quantize(8), "PNG"),
        "16 bits": encode(sixteen_bits, "PNG"),
        "WebP": encode(rgb, "WEBP"),
        "lossless": encode(rgb.convert("RGBA"), "WEBP", lossless=True),
    }


@pytest.mark.parametrize("with_simplejpeg", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_kind_of_file_gives_the_bits_of_pillow(
    files: dict[str, bytes], mode: Any, with_simplejpeg: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_simplejpeg:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(decoding, "_simplejpeg", lambda: None)
    for kind, data in files.items():
        levels = decode(data, mode, name)
        assert levels.dtype == np.uint8
        np.testing.assert_array_equal(levels, by_pillow(data, mode), err_msg=kind)


def test_a_header_says_mode_size_and_whether_the_image_is_turned(files: dict[str, bytes]) -> None:
    headers = {kind: read_header(data, name) for kind, data in files.items()}
    assert headers["JPEG 0 95"] == ("JPEG", "RGB", False, 61, 83)
    assert headers["turned"] == ("JPEG", "RGB", True, 61, 83)
    modes = {kind: headers[kind].mode for kind in ("grey", "CMYK", "PNG", "alpha", "palette", "16 bits", "WebP")}
    assert modes == {"grey": "L", "CMYK": "CMYK", "PNG": "RGB", "alpha": "RGBA", "palette": "P", "16 bits": "I;16",
                     "WebP": "RGB"}  # fmt: skip


def test_orientation_is_seen_wherever_it_is_written(picture: Callable[..., Any], encode: Callable[..., bytes]) -> None:
    image = Image.fromarray(picture(1))
    for kind in ("JPEG", "PNG", "WEBP"):
        assert read_header(encode(image, kind, exif=TURNED), name).turned
    xmp = b'<x xmlns:tiff="t" tiff:Orientation="3"/>'
    assert read_header(encode(image, xmp=xmp), name).turned


def test_images_of_another_kind_are_left_to_others(files: dict[str, bytes]) -> None:
    usual = frozenset({("RGB", False)})
    assert decode_kinds(files["JPEG 0 95"], "RGB", name, usual) is not None
    assert [kind for kind, data in files.items() if decode_kinds(data, "RGB", name, usual) is None] == [
        "grey", "CMYK", "turned", "alpha", "palette", "16 bits"
    ]  # fmt: skip


@pytest.mark.parametrize("with_simplejpeg", [True, False])
def test_scaled_images_are_the_smallest_that_are_large_enough(
    picture: Callable[..., Any], encode: Callable[..., bytes], with_simplejpeg: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_simplejpeg:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(decoding, "_simplejpeg", lambda: None)
    image = Image.fromarray(picture(2, 375, 500))
    data = encode(image, quality=95)
    for at_least, factor in {(47, 63): 8, (48, 63): 4, (94, 125): 4, (10, 126): 2, (188, 250): 2, (189, 1): 1}.items():
        levels, found = decode_scaled(data, "RGB", name, at_least)
        assert (found, levels.shape) == (factor, (-(-375 // factor), -(-500 // factor), 3))
        means = np.asarray(Image.fromarray(decode(data, "RGB", name)).reduce(factor))
        assert np.abs(levels.astype(int) - means).mean() < 2
    assert decode_scaled(encode(image, "PNG"), "RGB", name, (1, 1))[1] == 1


def test_a_torn_file_is_named(files: dict[str, bytes]) -> None:
    for kind in ("JPEG 0 95", "progressive", "CMYK", "PNG", "WebP"):
        for part in (0, 1, 10, len(files[kind]) // 2, len(files[kind]) - 40):
            with pytest.raises(DataError, match=r"^cat\.jpg: cannot be decoded"):
                decode(files[kind][:part], "RGB", name)


def test_damaged_bytes_never_raise_anything_else(files: dict[str, bytes]) -> None:
    random = np.random.default_rng(0)
    for kind in ("JPEG 1 40", "PNG", "WebP"):
        for _ in range(150):
            damaged = bytearray(files[kind])
            damaged[random.integers(0, min(len(damaged), 300))] = random.integers(0, 256)
            with suppress(DataError):
                decode(bytes(damaged), "RGB", name)


@pytest.mark.parametrize("limit_of_pillow", [Image.MAX_IMAGE_PIXELS, None])
def test_a_header_that_declares_too_much_is_refused_before_anything_is_allocated(
    files: dict[str, bytes], limit_of_pillow: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit_of_pillow)
    jpeg = bytearray(files["JPEG 0 95"])
    frame = jpeg.find(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    header = struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    assert min(65535 * 65535, 1 << 40) > MAX_PIXELS
    for data in (bytes(jpeg), png):
        for refuse in (
            lambda: decode(data, "RGB", name),  # noqa: B023
            lambda: decode_scaled(data, "RGB", name, (1, 1)),  # noqa: B023
            lambda: read_header(data, name),  # noqa: B023
        ):
            with pytest.raises(DataError, match=r"^cat\.jpg: .*pixels"):
                refuse()


def test_threads_decode_at_the_same_time(files: dict[str, bytes]) -> None:
    kinds = list(files) * 8
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(lambda kind: decode(files[kind], "RGB", name), kinds))
    for kind, levels in zip(kinds, decoded, strict=True):
        np.testing.assert_array_equal(levels, by_pillow(files[kind], "RGB"))
