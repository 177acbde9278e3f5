"""Crop, pad, flip and conversion of a batch of images, in one pass from bytes to the values that a model is given.

Crop, pad and flip are a map from each row and column of the result to a row and column of the source, and ``ToTensor``,
``Normalize`` and their like are a table of 256 values per channel. So pixel (i, j) of image b is ``table[c,
levels[index[b], rows[b, i], columns[b, j], c]]``, and a negative code -(1 + k) among rows or columns stands for filling
k; where both are negative the later filling lies on top.

What is physical about it: a table is looked up one value at a time, two cycles each, whatever the width of the
registers. Arithmetic does sixteen at once, and then memory is the limit. Columns mostly are one run, ascending or (for
a mirrored image) descending, with fillings at its ends; ``_sixteen`` loads 16 pixels of it, brings their bytes into the
order of the result, and converts. The table stays the truth: arithmetic is used where it was seen to give each of its
values, bit for bit, on this processor; anything else (and pixels beside the run) is looked up.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.kernels.forms import AsIs, Form, ToFloat16, ToFloat32, candidates
from torchspeed.data.kernels.jit import instructions, kernel
from torchspeed.errors import DataError

Levels = NDArray[np.uint8]
Index = NDArray[np.int64]
Map = NDArray[np.int32]

LANES = 16
_MOST_CHANNELS = 4  # that go through registers together

# An index of this type cannot be negative, which spares Numba the test for one that counts from the end.
_U = np.uint64


@final
@dataclass(frozen=True, eq=False)
class Conversion:
    """table: [C, 256], what each level becomes (bits, for bfloat16 and float16). forms: the arithmetic that gives the
    same, for each channel; none if there is none."""

    table: NDArray[Any]
    forms: tuple[Form, ...] = ()

    def __str__(self) -> str:
        """For a person who wants to know why it is fast, or not."""
        if not self.forms:
            return "looked up in a table"
        return "copied" if isinstance(self.forms[0], AsIs) else "computed in registers"

    def run(
        self, levels: Levels, index: Index, rows: Map, columns: Map, fills: NDArray[Any], out: NDArray[Any]
    ) -> None:
        """Pixels of ``levels`` uint8 [N, H, W, C], moved and converted, to ``out`` [B, C, h, w].

        index: int64 [B]; rows: int32 [B, h] or [1, h]; columns: int32 [B, w] or [1, w]; fills: [K, C] of the table's
        dtype. ``out`` is contiguous, or lies in memory as [B, h, w, C], as a channels_last tensor does.

        Raises ``DataError`` for arrays that do not fit each other, ``IndexError`` for an image that is not there.
        """
        _check(self.table, levels, index, rows, columns, fills, out)
        rows, columns = _one_if_same(rows), _one_if_same(columns)
        runs = np.empty((len(columns), 3), np.int64)
        if self.forms and _find_runs(columns, runs):
            _convert(levels, index, rows, columns, runs, self.table, fills, self.forms, out)
        else:
            _look_up(levels, index, rows, columns, self.table, fills, out)


def gather(levels: Levels, index: Index, rows: Map, columns: Map, fills: Levels, out: Levels) -> None:
    """``Conversion.run`` for bytes that stay as they are, to ``out`` uint8 [B, h, w, C]; fills: uint8 [K, C]."""
    _as_is(levels.shape[3]).run(levels, index, rows, columns, fills, out.transpose(0, 3, 1, 2))


def conversion(table: Tensor) -> Conversion:
    """How to convert by ``table`` [C, 256]: by arithmetic if some is found that gives every one of its values."""
    values = bits(table)
    if len(values) > _MOST_CHANNELS:
        return Conversion(values)
    found: dict[int, Form] = {}
    for forms in candidates(table.detach().cpu()):
        same = _values(values, forms).view(np.uint8) == values.view(np.uint8)  # 0 and -0 are not
        for channel in np.flatnonzero(same.all(axis=1)):
            found.setdefault(int(channel), forms[channel])
        if len(found) == len(values):
            return Conversion(values, tuple(found[channel] for channel in range(len(values))))
    return Conversion(values)


def bits(values: Tensor) -> NDArray[Any]:
    """As an array; bfloat16 and float16, of which NumPy or Numba know nothing, as uint16."""
    values = values.detach().cpu().contiguous()
    return (values.view(torch.uint16) if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


@cache
def _as_is(channels: int) -> Conversion:
    return conversion(torch.arange(256, dtype=torch.uint8).repeat(channels, 1))


def _values(table: NDArray[Any], forms: tuple[Form, ...]) -> NDArray[Any]:
    """[C, 256]: what the machine code gives for every level by ``forms``, as bits."""
    channels = len(table)
    every = np.arange(256)
    levels = np.ascontiguousarray(np.broadcast_to(every.astype(np.uint8)[None, None, :, None], (1, 1, 256, channels)))
    out = np.empty((1, channels, 1, 256), table.dtype)
    first = np.zeros(1, np.int64)
    Conversion(table, forms).run(
        levels, first, first.astype(np.int32)[None], every.astype(np.int32)[None], table[:, :1].T.copy(), out
    )
    return out.reshape(channels, 256)


def _one_if_same(map_: Map) -> Map:
    """[1, n] in place of one that was broadcast."""
    return np.require(map_[:1] if map_.strides[0] == 0 else map_, np.int32, ["C", "W"])


def _check(
    table: NDArray[Any],
    levels: Levels,
    index: Index,
    rows: Map,
    columns: Map,
    fills: NDArray[Any],
    out: NDArray[Any],
) -> None:
    batch, channels, height, width = out.shape if out.ndim == 4 else (0, 0, 0, 0)
    item = out.itemsize
    fits = (
        levels.dtype == np.uint8
        and levels.ndim == 4
        and levels.flags.c_contiguous
        and len(index) == batch
        and rows.shape in ((batch, height), (1, height))
        and columns.shape in ((batch, width), (1, width))
        and table.shape == (levels.shape[3], 256) == (channels, 256)
        and fills.ndim == 2
        and fills.shape[1] == channels
        and fills.dtype == table.dtype == out.dtype
        and (out.flags.c_contiguous or out.strides[1:] == (item, channels * width * item, channels * item))
    )
    if not fits:
        raise DataError(
            f"levels {levels.dtype} {levels.shape}, index {index.shape}, rows {rows.shape}, columns {columns.shape}, "
            f"table {table.dtype} {table.shape}, fills {fills.dtype} {fills.shape}, out {out.dtype} {out.shape} with "
            f"strides {out.strides}: they must be uint8 [N, H, W, C], [B], [B, h], [B, w], [C, 256], [K, C], and [B, "
            "C, h, w] contiguous or as a channels_last tensor lies, the last three of one dtype"
        )


@kernel
def _find_runs(columns: Map, runs: NDArray[np.int64]) -> bool:
    """The run about the middle of each line of ``columns``: (first, last + 1, step) into ``runs``; whether all are
    long enough."""
    enough = True
    width = columns.shape[1]
    for b in range(len(columns)):
        line = columns[b]
        first = last = width // 2
        step = line[first] - line[first - 1]
        if abs(step) == 1 and line[first] >= 0:
            last += 1
            while first > 0 and line[first - 1] >= 0 and line[first] - line[first - 1] == step:
                first -= 1
            while last < width and line[last] >= 0 and line[last] - line[last - 1] == step:
                last += 1
        enough &= last - first >= LANES
        runs[b, 0], runs[b, 1], runs[b, 2] = first, last, step
    return enough


@kernel
def _look_up(
    levels: Levels,
    index: Index,
    rows: Map,
    columns: Map,
    table: NDArray[Any],
    fills: NDArray[Any],
    out: NDArray[Any],
) -> None:
    batch, channels, height, width = out.shape
    for b in range(batch):
        n = index[b]
        if n < 0 or n >= len(levels):
            raise IndexError("an index beyond the images")
        row_codes, column_codes = rows[b if len(rows) > 1 else 0], columns[b if len(columns) > 1 else 0]
        for i in range(height):
            row = row_codes[i]
            line = levels[n, max(row, 0)]
            for c in range(channels):
                values, target = table[c], out[b, c, i]
                if row < 0:
                    for j in range(_U(width)):
                        target[j] = fills[_U(-1 - min(row, column_codes[j])), c]
                else:
                    for j in range(_U(width)):
                        column = column_codes[j]
                        target[j] = fills[_U(-1 - column), c] if column < 0 else values[line[_U(column), c]]


@kernel
def _convert(
    levels: Levels,
    index: Index,
    rows: Map,
    columns: Map,
    runs: NDArray[np.int64],
    table: NDArray[Any],
    fills: NDArray[Any],
    forms: tuple[Form, ...],
    out: NDArray[Any],
) -> None:
    """``_look_up`` where every image has a run of columns."""
    batch, channels, height, width = out.shape
    for b in range(batch):
        n = index[b]
        if n < 0 or n >= len(levels):
            raise IndexError("an index beyond the images")
        rows_of = _U(b if len(rows) > 1 else 0)
        columns_of = _U(b if len(columns) > 1 else 0)
        first, last, step = runs[columns_of, 0], runs[columns_of, 1], runs[columns_of, 2]
        start = columns[columns_of, first]
        for i in range(_U(height)):
            row = rows[rows_of, i]
            if row >= 0:
                # The last sixteen overlap those before, and the source is read upwards whichever way it is written:
                # processors fetch ahead in that direction.
                if step > 0:
                    for place in range(first, last, LANES):
                        j = min(place, last - LANES)
                        _sixteen(levels, n, row, start + (j - first), out, b, i, j, forms, 1)
                else:
                    for place in range(last, first, -LANES):
                        j = max(place - LANES, first)
                        _sixteen(levels, n, row, start - (j - first), out, b, i, j, forms, -1)
        for beside in range(2):
            for j in range(_U(last if beside else 0), _U(width if beside else first)):
                column = columns[columns_of, j]
                for c in range(_U(channels)):
                    if column < 0:
                        fill = fills[_U(-1 - column), c]
                        for i in range(_U(height)):
                            out[b, c, i, j] = fill
                    else:
                        for i in range(_U(height)):
                            row = rows[rows_of, i]
                            if row >= 0:
                                out[b, c, i, j] = table[c, levels[n, _U(row), _U(column), c]]
        for i in range(_U(height)):
            row = rows[rows_of, i]
            if row < 0:
                for c in range(_U(channels)):
                    for j in range(_U(width)):
                        out[b, c, i, j] = fills[_U(-1 - min(row, columns[columns_of, j])), c]


@instructions
def _sixteen(
    typing: Any,
    levels: Any,
    n: Any,
    row: Any,
    column: Any,
    out: Any,
    b: Any,
    i: Any,
    j: Any,
    forms: Any,
    direction: Any,
) -> Any:
    """The 16 pixels of image n from (row, column) on, rightwards (``direction`` 1) or leftwards (-1), converted to the
    16 of ``out[b]`` from (i, j) on. All arguments stand for their types."""
    from llvmlite import ir
    from numba.core import cgutils, types

    channels, form = len(forms), forms.dtype.instance_class
    planar = out.layout == "C"
    byte, word, single = ir.IntType(8), ir.IntType(32), ir.FloatType()
    words, halves, singles = (ir.VectorType(lane, LANES) for lane in (word, ir.IntType(16), single))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        levels_, n, row, column, out_, b, i, j, forms_, _ = arguments
        levels_type, out_type = signature.args[0], signature.args[4]
        source, target = (
            context.make_array(type_)(context, builder, value)
            for type_, value in ((levels_type, levels_), (out_type, out_))
        )

        def integer(value: int) -> Any:
            return context.get_constant(types.intp, value)

        def shuffled(vector: Any, order: list[int]) -> Any:
            undefined = ir.Constant(vector.type, ir.Undefined)
            return builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(word, len(order)), order))

        def constants(name: str, channel_of: list[int]) -> Any:
            """The field ``name`` of the form of each lane's channel."""
            each = ir.Constant(ir.VectorType(single, channels), ir.Undefined)
            for c in range(channels):
                field = builder.extract_value(builder.extract_value(forms_, c), form._fields.index(name))
                each = builder.insert_element(each, field, ir.Constant(word, c))
            return shuffled(each, channel_of)

        def fma(x: Any, y: Any, z: Any) -> Any:
            function_type = ir.FunctionType(singles, [singles] * 3)
            function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.fma.v{LANES}f32")
            return builder.call(function, (x, y, z))

        def converted(x: Any, channel_of: list[int]) -> Any:
            if form is AsIs:
                return x
            x = builder.uitofp(builder.zext(x, words), singles)
            if form is ToFloat32:
                scale, low, mean, factor, factor_low = (constants(name, channel_of) for name in form._fields)
                centred = builder.fsub(fma(x, scale, builder.fmul(x, low)), mean)
                return fma(centred, factor, builder.fmul(centred, factor_low))
            origin, slope, offset = (constants(name, channel_of) for name in form._fields)
            x = fma(builder.fsub(x, origin), slope, offset)
            if form is ToFloat16:
                return builder.bitcast(builder.fptrunc(x, ir.VectorType(ir.HalfType(), LANES)), halves)
            half, sixteen = (ir.Constant(words, [value] * LANES) for value in (0x8000, 16))
            return builder.trunc(builder.lshr(builder.add(builder.bitcast(x, words), half), sixteen), halves)

        if direction.literal_value < 0:
            column = builder.sub(column, integer(LANES - 1))
        at = cgutils.get_item_pointer(
            context, builder, levels_type, source, [n, row, column, integer(0)], wraparound=False
        )
        loaded = builder.load(builder.bitcast(at, ir.VectorType(byte, LANES * channels).as_pointer()), align=1)
        pixels = range(LANES)[:: direction.literal_value]
        if planar:
            order = [(pixel, c) for c in range(channels) for pixel in pixels]
        else:
            order = [(pixel, c) for pixel in pixels for c in range(channels)]
        for part in range(channels):
            lanes = order[part * LANES : (part + 1) * LANES]
            x = converted(shuffled(loaded, [p * channels + c for p, c in lanes]), [c for _, c in lanes])
            place = [b, integer(part if planar else 0), i, j]
            at = cgutils.get_item_pointer(context, builder, out_type, target, place, wraparound=False)
            if not planar:
                at = builder.gep(at, [integer(part * LANES)])
            builder.store(x, builder.bitcast(at, x.type.as_pointer()), align=out_type.dtype.bitwidth // 8)
        return context.get_dummy_value()

    place = types.intp
    return types.void(levels, place, place, place, out, place, place, place, forms, direction), generate
