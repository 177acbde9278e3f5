"""What ``explain`` prints: plain text of at most 100 columns, the answer first and the tables after it."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from torchspeed.measure.achieved import Achieved
from torchspeed.measure.advice import Advice
from torchspeed.measure.figures import milliseconds, percent
from torchspeed.measure.parts import Parts
from torchspeed.measure.suggest import Suggestion
from torchspeed.measurement import Spread

WIDTH = 100
_BAR = 30
_NOTHING = 0.0005
_SHOWN = 8
_BEYOND = 1.005
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def parts_table(parts: Parts, bounds: Mapping[str, float]) -> str:
    """A line per part: milliseconds, share, the most that fixing it could gain, and quartiles over the steps."""
    lines = [f"{'one step':<11}{'mean ms':>7}  {'share':>5}  {'':<{_BAR}}  {'could gain':>10}   quartiles, ms"]
    for part, seconds in parts.seconds.items():
        share = parts.shares[part]
        if share < _NOTHING:
            continue
        gain = f"≤ {bounds[part]:.2f}×" if part in bounds else ""
        lines.append(
            f"  {part:<9}{milliseconds(seconds):>7}  {percent(share):>5}  {bar(share):<{_BAR}}  {gain:>10}   "
            f"{_quartiles(parts.spread[part])}"
        )
    whole = f"{parts.step_spread.n} steps timed"
    lines.append(
        f"  {'together':<9}{milliseconds(parts.step_seconds):>7}  {'':>5}  {whole:<{_BAR}}  {'':>10}   "
        f"{_quartiles(parts.step_spread)}"
    )
    return "\n".join(lines)


def _quartiles(spread: Spread) -> str:
    return f"{milliseconds(spread.low)} – {milliseconds(spread.high)}"


def bar(share: float) -> str:
    """``share`` (0 to 1) as a bar of at most 30 columns, to an eighth of a column."""
    eighths = round(min(max(share, 0.0), 1.0) * _BAR * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def modules_table(modules: Sequence[Achieved]) -> str:
    """A line per module, its children not included."""
    header = ("module", "class", "forward ms", "backward ms", "of the step", "GFLOP/s", "of its limit")
    rows = [header]
    for module in modules:
        rate, limit = module.flops_per_second, module.share_of_limit
        rows.append(
            (
                _cut(module.name or "(the model itself)", 30),
                _cut(module.kind, 20),
                milliseconds(module.forward_seconds),
                milliseconds(module.backward_seconds),
                percent(module.share),
                "" if rate is None else f"{rate / 1e9:.1f}" if rate else "–",
                "" if limit is None else percent(limit) if limit < _BEYOND else "> 100 %",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def suggestions_list(suggestions: Sequence[Suggestion]) -> str:
    """One line per lever, with what it changes as far as there is room; of many levers the first."""
    shown = suggestions[:_SHOWN]
    width = max(len(str(suggestion)) for suggestion in shown)
    lines = [textwrap.shorten(suggestion.what, WIDTH - width - 4, placeholder=" …") for suggestion in shown]
    lines = [f"  {suggestion!s:<{width}}  {line}" for suggestion, line in zip(shown, lines, strict=True)]
    if suggestions[_SHOWN:]:
        lines.append(wrapped(f"  then {', '.join(suggestion.lever for suggestion in suggestions[_SHOWN:])}", 4))
    return "\n".join(lines)


def advice_list(advice: Sequence[Advice]) -> str:
    """A paragraph per advice."""
    return "\n".join(wrapped(f"  {piece}", 4) for piece in advice)


def wrapped(text: str, indent: int = 2) -> str:
    """``text`` with each of its lines broken where it is longer than a page; what follows is indented."""
    return "\n".join(_lines(text, indent))


def _lines(text: str, indent: int) -> Iterable[str]:
    for line in text.splitlines():
        yield from textwrap.wrap(
            line, WIDTH, subsequent_indent=" " * indent, replace_whitespace=False, break_on_hyphens=False
        ) or [""]


def _cut(text: str, width: int) -> str:
    """The end of a long name: that is where modules differ."""
    return text if len(text) <= width else f"…{text[1 - width :]}"
