"""The same bytes as Pillow's ``crop(box).resize(size, filter)``, and nearly those of PyTorch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from torchspeed.data.kernels.resample import FILTERS, resample, resample_one
from torchspeed.errors import DataError

MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # modes whose channels Pillow resamples one by one


def by_pillow(image: Any, box: Any, filter: str, height: int, width: int) -> Any:
    top, left, box_height, box_width = map(int, box)
    channels = image.shape[2]
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(channels)]
    whole = Image.merge(MODES[channels], planes)
    part = whole.crop((left, top, left + box_width, top + box_height))
    return np.asarray(part.resize((width, height), Image.Resampling[filter.upper()])).reshape(height, width, channels)


def resampled(image: Any, box: Any, filter: str, height: int, width: int, **options: bool) -> Any:
    out = np.zeros((height, width, image.shape[2]), np.uint8)
    resample_one(image, np.array(box), FILTERS.index(filter), out, **options)
    return out


def noise(seed: int, *shape: int) -> Any:
    """Bytes of which many are black or white, so that sums leave the range of a byte."""
    levels = np.random.default_rng(seed).integers(-200, 456, shape)
    return np.clip(levels, 0, 255).astype(np.uint8)


@st.composite
def parts(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """(height, width) of an image and a box in it."""
    sides, starts, lengths = [], [], []
    for _ in range(2):
        side = draw(st.integers(1, 90))
        length = draw(st.integers(1, side))
        sides.append(side)
        lengths.append(length)
        starts.append(draw(st.integers(0, side - length)))
    return (sides[0], sides[1]), (starts[0], starts[1], lengths[0], lengths[1])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    part=parts(),
    filter=st.sampled_from(FILTERS),
    channels=st.sampled_from(sorted(MODES)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 99),
)
@example(part=((90, 20), (0, 0, 90, 20)), filter="bicubic", channels=3, size=(10, 19), seed=0)  # Pillow: columns first
@example(part=((40, 40), (5, 5, 30, 30)), filter="lanczos", channels=3, size=(30, 12), seed=0)  # the height stays
@example(part=((40, 40), (5, 5, 30, 30)), filter="hamming", channels=1, size=(12, 30), seed=0)  # the width stays
@example(part=((40, 40), (5, 5, 30, 30)), filter="box", channels=3, size=(30, 30), seed=0)  # a copy
def test_every_byte_is_that_of_pillow(
    part: tuple[tuple[int, int], tuple[int, int, int, int]],
    filter: str,
    channels: int,
    size: tuple[int, int],
    seed: int,
) -> None:
    (height, width), box = part
    image = noise(seed, height, width, channels)
    np.testing.assert_array_equal(resampled(image, box, filter, *size), by_pillow(image, box, filter, *size))


@pytest.mark.parametrize(
    ("filter", "size"),
    [
        ("bilinear", (224, 224)),
        ("bicubic", (97, 301)),
        ("nearest", (50, 400)),
        ("hamming", (211, 173)),  # two of these bytes tell that Pillow's constants are in single precision
    ],
)
def test_an_image_of_several_bands_is_exact_too(filter: str, size: tuple[int, int]) -> None:
    image = noise(1, 300, 285, 3)
    box = (0, 0, 300, 285)
    np.testing.assert_array_equal(resampled(image, box, filter, *size), by_pillow(image, box, filter, *size))


def test_each_image_of_a_batch_has_a_box_of_its_own() -> None:
    levels = noise(2, 5, 48, 40, 3)
    index = np.array([4, 0, 4, 2, 1])
    boxes = np.array([[0, 0, 48, 40], [3, 5, 20, 31], [3, 5, 20, 31], [40, 30, 8, 1], [0, 7, 16, 16]])
    out = np.zeros((5, 16, 24, 3), np.uint8)
    resample(levels, index, boxes, FILTERS.index("bilinear"), out)
    for image, box, result in zip(levels[index], boxes, out, strict=True):
        np.testing.assert_array_equal(result, by_pillow(image, box, "bilinear", 16, 24))


@pytest.mark.parametrize(("filter", "most"), [("bilinear", 1), ("bicubic", 2)])
def test_tensors_of_bytes_resized_by_pytorch_differ_by_a_level_or_two(filter: str, most: int) -> None:
    generator = np.random.default_rng(3)
    for seed in range(40):
        (height, width), size = generator.integers(8, 90, 2), tuple(map(int, generator.integers(2, 80, 2)))
        image = noise(seed, height, width, 3)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
        by_torch = torch.nn.functional.interpolate(tensor, size=size, mode=filter, antialias=True)
        ours = resampled(image, (0, 0, height, width), filter, *size, rows_first=True)
        assert np.abs(by_torch[0].permute(1, 2, 0).numpy().astype(int) - ours).max() <= most


@pytest.mark.parametrize("box", [(-1, 0, 4, 4), (0, 0, 9, 4), (0, 5, 4, 4), (0, 0, 0, 4)])
def test_a_box_beyond_its_image_is_said_so(box: tuple[int, ...]) -> None:
    with pytest.raises(IndexError, match="a box"):
        resampled(noise(0, 8, 8, 3), box, "bilinear", 4, 4)


def test_an_image_that_is_not_there_is_said_so() -> None:
    boxes = np.array([[0, 0, 8, 8]])
    with pytest.raises(IndexError, match="index"):
        resample(noise(0, 2, 8, 8, 3), np.array([2]), boxes, 2, np.zeros((1, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("levels", "filter_code", "out"),
    [
        (noise(0, 2, 8, 8, 3).astype(np.float32), 2, noise(0, 1, 4, 4, 3)),
        (noise(0, 2, 8, 8, 3), 2, noise(0, 1, 4, 4, 1)),
        (noise(0, 2, 8, 8, 3), 2, noise(0, 2, 4, 4, 3)),
        (noise(0, 2, 8, 8, 3)[:, ::2], 2, noise(0, 1, 4, 4, 3)),
        (noise(0, 2, 8, 8, 5), 2, noise(0, 1, 4, 4, 5)),
        (noise(0, 2, 8, 8, 3), 2, noise(0, 1, 4, 0, 3)),
        (noise(0, 2, 8, 8, 3), 6, noise(0, 1, 4, 4, 3)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(levels: Any, filter_code: int, out: Any) -> None:
    with pytest.raises(DataError, match=r"levels|filter"):
        resample(levels, np.zeros(1, np.int64), np.array([[0, 0, 4, 4]]), filter_code, out)
