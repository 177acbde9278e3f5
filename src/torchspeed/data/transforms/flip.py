"""Mirror images: ``RandomHorizontalFlip``, ``RandomVerticalFlip``."""

from dataclasses import dataclass
from typing import Any, final

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images
from torchspeed.data.pipeline.operation import Operation, Params, Sizes
from torchspeed.data.transforms.reading import Place, shown


@final
@dataclass(frozen=True, kw_only=True)
class Flip(Operation):
    p: float
    horizontal: bool

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return heights, widths

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return (draws.rand() < self.p,)

    def apply(self, images: Images, params: Params) -> None:
        (images.flip_horizontally if self.horizontal else images.flip_vertically)(params[0])


def read_flip(transform: Any, place: Place) -> Flip:
    horizontal = type(transform).__name__ == "RandomHorizontalFlip"
    p = transform.p
    return Flip(transform=transform, label=shown(transform, p), random=True, moves=True, p=p, horizontal=horizontal)
