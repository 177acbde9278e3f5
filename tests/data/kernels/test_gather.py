"""One pass over bytes gives what a table looked up pixel by pixel gives, bit for bit."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchspeed.data.kernels.forms import candidates
from torchspeed.data.kernels.gather import bits, conversion, gather
from torchspeed.errors import DataError

MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616])
LEVELS = torch.arange(256, dtype=torch.uint8)
UNITS = LEVELS.to(torch.float32).div(255)


def normalised(channels: int, dtype: torch.dtype) -> Tensor:
    """What torchvision's ToTensor and Normalize make of the levels."""
    return UNITS.repeat(channels, 1).sub(MEAN[:channels, None]).div(STD[:channels, None]).to(dtype)


def by_numpy(levels: Any, index: Any, rows: Any, columns: Any, table: Any, fills: Any) -> Any:
    rows, columns = rows[:, :, None], columns[:, None, :]
    pixels = levels[index[:, None, None], np.maximum(rows, 0), np.maximum(columns, 0)]
    fill = np.maximum(-1 - rows, -1 - columns)[..., None]
    values = np.where(fill >= 0, fills[np.maximum(fill[..., 0], 0)], table[np.arange(levels.shape[3]), pixels])
    return values.transpose(0, 3, 1, 2)


def moved(draw: st.DrawFn, side: int, batch: int) -> Any:
    """int32 [B, length]: the maps of a few crops, flips and paddings, or anything at all."""
    length = draw(st.integers(1, 40))
    maps = np.empty((batch, length), np.int32)
    for line in maps:
        if draw(st.integers(0, 4)) == 0:
            line[:] = draw(st.lists(st.integers(-2, side - 1), min_size=length, max_size=length))
            continue
        grown = np.arange(side)
        if draw(st.booleans()):
            grown = np.pad(grown, draw(st.integers(0, side - 1)), mode="reflect")
        for fill in range(2):
            grown = np.pad(grown, draw(st.integers(0, 9)), constant_values=-1 - fill)
        grown = np.pad(grown, (0, max(0, length - len(grown))), constant_values=-1)
        start = draw(st.integers(0, len(grown) - length))
        part = grown[start : start + length]
        line[:] = part[::-1] if draw(st.booleans()) else part
    return maps


@st.composite
def work(draw: st.DrawFn, channels: int) -> tuple[Any, Any, Any, Any]:
    """(levels, index, rows, columns)."""
    batch, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 20)), draw(st.integers(1, 45))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    levels = random.integers(0, 256, (3, height, width, channels), dtype=np.uint8)
    return levels, random.integers(0, 3, batch), moved(draw, height, batch), moved(draw, width, batch)


TABLES = {
    "float32": normalised(3, torch.float32),
    "float32 grey": normalised(1, torch.float32),
    "bfloat16": normalised(3, torch.bfloat16),
    "float16": normalised(3, torch.float16),
    "levels": LEVELS.repeat(3, 1),
    "negative": 255 - LEVELS.repeat(3, 1),
    "no line": normalised(3, torch.float32).sin(),
    "six channels": normalised(3, torch.float32).repeat(2, 1),
}
converted = cache(lambda name: conversion(TABLES[name]))


@pytest.mark.parametrize(
    ("name", "channels_last"),
    [
        ("float32", False),
        ("float32", True),
        ("float32 grey", False),
        ("bfloat16", True),
        ("float16", False),
        ("levels", False),
        ("negative", True),
        ("no line", False),
        ("six channels", True),
    ],
)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_value_is_that_of_the_table(name: str, channels_last: bool, data: st.DataObject) -> None:
    table, convert = TABLES[name], converted(name)
    levels, index, rows, columns = data.draw(work(channels=len(table)))
    fills = bits(table[:, [7, 200]].T)
    shape = (len(index), len(table), rows.shape[1], columns.shape[1])
    out = np.zeros(shape, convert.table.dtype)
    if channels_last:
        out = np.zeros([shape[k] for k in (0, 2, 3, 1)], convert.table.dtype).transpose(0, 3, 1, 2)
    convert.run(levels, index, rows, columns, fills, out)
    wanted = by_numpy(levels, index, rows, columns, bits(table), fills)
    np.testing.assert_array_equal(out.tobytes(), wanted.tobytes())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(moves=work(3))
def test_bytes_that_stay_bytes_are_copied(moves: tuple[Any, Any, Any, Any]) -> None:
    levels, index, rows, columns = moves
    fills = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    out = np.zeros((len(index), rows.shape[1], columns.shape[1], 3), np.uint8)
    gather(levels, index, rows, columns, fills, out)
    table = LEVELS.repeat(3, 1).numpy()
    np.testing.assert_array_equal(out.transpose(0, 3, 1, 2), by_numpy(levels, index, rows, columns, table, fills))


def test_a_map_that_all_images_share_is_given_once() -> None:
    levels, index = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8), np.array([1, 0, 1])
    line = np.arange(20, dtype=np.int32)[None]
    fills, out = np.zeros((1, 3), np.uint8), np.zeros((2, 3, 20, 20, 3), np.uint8)
    gather(levels, index, line, line, fills, out[0])
    gather(levels, index, np.broadcast_to(line, (3, 20)), line.repeat(3, axis=0), fills, out[1])
    np.testing.assert_array_equal(out, np.stack([levels[index]] * 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_mean_and_std_is_computed_and_not_looked_up(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        mean, std = torch.rand(3, 1, generator=generator), 0.05 + torch.rand(3, 1, generator=generator)
        table = UNITS.repeat(3, 1).sub(mean).div(std).to(dtype)
        assert str(conversion(table)) == "computed in registers"


@pytest.mark.parametrize(
    "table",
    [UNITS, LEVELS.to(torch.float32), LEVELS.to(torch.float32).mul(1 / 255), UNITS.sub(0.5).div(0.5), UNITS.bfloat16()],
    ids=["ToTensor", "without scale", "ToDtype", "to -1 ... 1", "bfloat16"],
)
def test_the_usual_conversions_are_computed(table: Tensor) -> None:
    assert str(conversion(table.repeat(3, 1))) == "computed in registers"


def test_one_value_off_by_one_unit_in_the_last_place_is_noticed() -> None:
    table = normalised(3, torch.float32)
    table[1, 200] = table[1, 200].nextafter(torch.tensor(torch.inf))
    assert list(candidates(table))  # the line is found all the same
    convert = conversion(table)
    assert str(convert) == "looked up in a table"
    np.testing.assert_array_equal(convert.table, table.numpy())


def test_an_image_that_is_not_there_is_said_so() -> None:
    levels, line = np.zeros((2, 20, 20, 3), np.uint8), np.arange(20, dtype=np.int32)[None]
    with pytest.raises(IndexError, match="index"):
        gather(levels, np.array([2]), line, line, np.zeros((1, 3), np.uint8), np.zeros((1, 20, 20, 3), np.uint8))


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": np.zeros((2, 20, 20, 3), np.float32)},
        {"levels": np.zeros((2, 20, 40, 3), np.uint8)[:, :, ::2]},
        {"rows": np.zeros((1, 19), np.int32)},
        {"columns": np.zeros((2, 20), np.int32)},
        {"fills": np.zeros((1, 3), np.uint8)},
        {"out": np.zeros((1, 20, 20, 3), np.float32)},
        {"out": np.zeros((1, 3, 20, 40), np.float32)[..., ::2]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_arrays_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    line = np.arange(20, dtype=np.int32)[None]
    arrays = {
        "levels": np.zeros((2, 20, 20, 3), np.uint8),
        "index": np.zeros(1, np.int64),
        "rows": line,
        "columns": line,
        "fills": np.zeros((1, 3), np.float32),
        "out": np.zeros((1, 3, 20, 20), np.float32),
    }
    with pytest.raises(DataError, match="they must be"):
        conversion(normalised(3, torch.float32)).run(**{**arrays, **wrong})
