"""The compiled plan as a small table: each operation, where it runs, and why."""

from collections.abc import Sequence

from torchspeed.data.pipeline.build import Keep
from torchspeed.data.pipeline.operation import Erase, Operation, Pointwise, Step
from torchspeed.data.pipeline.program import Program
from torchspeed.data.pipeline.settings import Row, Settings
from torchspeed.data.sources.source import Source


def lowered_rows(source: Source, steps: Sequence[Step], keep: Keep, program: Program, settings: Settings) -> list[Row]:
    rows = _kept_rows(source, steps, keep)
    there = keep.placement == "device"
    kernel = f"PyTorch code on {settings.device}" if there else "batched kernel"
    for step in program.steps:
        if isinstance(step, Operation):
            why = "drawn per sample" if step.random else "cheaper than keeping its result"
            rows.append(Row(step.label, kernel, why if step.exact else f"{why}; within one level of 255"))
        elif isinstance(step, Pointwise):
            rows.append(Row(step.label, "a table of 256 values", "each value by itself; made by your own code"))
        elif isinstance(step, Erase):
            rows.append(Row(step.label, kernel, "drawn per sample"))
    layout = "channels_last" if settings.channels_last else "contiguous"
    why = "compiled when it comes again" if there else "one pass"
    rows.append(Row(f"→ {str(program.dtype).removeprefix('torch.')}, {layout}", "the same kernel", why))
    return rows


def continued_rows(source: Source, steps: Sequence[Step], keep: Keep, why: str) -> list[Row]:
    rows = _kept_rows(source, steps, keep)
    return rows + [Row(step.label, "as written, per sample", why) for step in steps[keep.cut :]]


def _kept_rows(source: Source, steps: Sequence[Step], keep: Keep) -> list[Row]:
    if keep.total_bytes == 0:
        in_place = source.levels is not None
        where = "RAM, as it lies" if in_place else "decoded each time" if source.encoded else "as written, per sample"
        if keep.settings.decode == "scaled":
            return [Row(source.kind, where, "at 1/2, 1/4 or 1/8 where a crop is shrunk as much: close, not equal")]
        why = "nothing is copied" if in_place else "nothing is to be kept"
        return [Row(source.kind, where, f"{why}; {_compared(source)}")]
    places = {"ram": "RAM", "mapped": "a mapped file", "device": f"the memory of {keep.settings.device}"}
    kept = f"once, kept in {places[keep.placement]} ({keep.total_bytes / 1e6:.0f} MB)"
    rows = [Row(source.kind, kept, f"always the same; {_compared(source)}")]
    return rows + [Row(step.label, "once, before it is kept", "always gives the same") for step in steps[: keep.cut]]


def _compared(source: Source) -> str:
    return f"{min(source.compared, len(source))} of {len(source)} compared with your code"


def render(rows: Sequence[Row]) -> str:
    """As text, in three columns."""
    cells = [("operation", "where", "why"), *((row.what, row.where, row.why) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(2)]
    return "\n".join(f"{what:<{widths[0]}}  {where:<{widths[1]}}  {why}".rstrip() for what, where, why in cells)
