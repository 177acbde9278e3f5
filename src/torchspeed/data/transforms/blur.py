"""``GaussianBlur``, with a random width of the kernel."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images
from torchspeed.data.pipeline.operation import Operation, Params, Sizes, Unreadable
from torchspeed.data.transforms.reading import Place, no_levels_after_conversion, shown


@final
@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Operation):
    """``height``, ``width``: of the kernel, odd. ``sigma``: the range of its standard deviation, in pixels."""

    height: int
    width: int
    sigma: tuple[float, float]

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        if (heights <= self.height // 2).any() or (widths <= self.width // 2).any():
            raise Unreadable(f"the kernel of {self.height} × {self.width} is too large for some of the images")
        return heights, widths

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return (draws.uniform(*self.sigma).astype(np.float64),)

    def apply(self, images: Images, params: Params) -> None:
        images.blur(self.height, self.width, params[0])


def read_gaussian_blur(transform: Any, place: Place) -> GaussianBlur:
    no_levels_after_conversion(place)
    width, height = transform.kernel_size
    low, high = transform.sigma
    return GaussianBlur(
        transform=transform,
        label=shown(transform, width if width == height else (width, height), sigma=(low, high)),
        random=True,
        exact=False,
        height=int(height),
        width=int(width),
        sigma=(float(low), float(high)),
    )
