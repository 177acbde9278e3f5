"""``Pad``, and the paddings that a crop may begin with."""

from dataclasses import dataclass
from typing import Any, final

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Fill, Images, PadMode
from torchspeed.data.pipeline.operation import Operation, Params, Sizes, Unreadable
from torchspeed.data.transforms.reading import Place, one_fill, shown


@final
@dataclass(frozen=True, kw_only=True)
class Pad(Operation):
    """``sides``: pixels at left, top, right and bottom; negative ones are cut off."""

    sides: tuple[int, int, int, int]
    mode: PadMode
    fill: Fill

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        left, top, right, bottom = self.sides
        check_padding(self.sides, self.mode, heights, widths)
        return heights + top + bottom, widths + left + right

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return ()

    def apply(self, images: Images, params: Params) -> None:
        images.pad(*self.sides, self.mode, self.fill)


def read_pad(transform: Any, place: Place) -> Pad:
    mode = padding_mode(transform.padding_mode, place)
    return Pad(
        transform=transform,
        label=shown(transform, transform.padding, padding_mode=None if mode == "constant" else mode),
        random=False,
        moves=True,
        sides=sides(transform.padding),
        mode=mode,
        fill=one_fill(transform.fill, place),
    )


def sides(padding: Any) -> tuple[int, int, int, int]:
    """Left, top, right, bottom, of torchvision's one, two or four numbers."""
    if isinstance(padding, int):
        return (padding,) * 4
    numbers = [int(number) for number in padding]
    if len(numbers) == 4:
        return numbers[0], numbers[1], numbers[2], numbers[3]
    return numbers[0], numbers[-1], numbers[0], numbers[-1]


def padding_mode(mode: Any, place: Place) -> PadMode:
    name = str(getattr(mode, "value", mode))
    if name not in ("constant", "edge", "reflect", "symmetric"):
        raise Unreadable(f"padding_mode={name!r} is not one that is known here")
    return name  # type: ignore[return-value]


def check_padding(padding: tuple[int, int, int, int], mode: PadMode, heights: Sizes, widths: Sizes) -> None:
    """The images must be of one size, and a mirror no longer than what it mirrors."""
    if (heights != heights[0]).any() or (widths != widths[0]).any():
        raise Unreadable("pads images of different sizes, which are padded one by one")
    left, top, right, bottom = padding
    reach = {"reflect": 1, "symmetric": 0}.get(mode)
    if reach is not None and (max(left, right) > widths[0] - reach or max(top, bottom) > heights[0] - reach):
        raise Unreadable(f"pads by more than the image has (padding_mode={mode!r})")
