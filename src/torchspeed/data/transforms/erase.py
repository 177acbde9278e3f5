"""``RandomErasing``: a box of the converted image becomes one value (Zhong et al., arXiv:1708.04896)."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.operation import Erase, Sizes, Unreadable
from torchspeed.data.transforms.boxes import draw_boxes
from torchspeed.data.transforms.reading import Place, shown


@final
@dataclass(frozen=True, kw_only=True)
class RandomErasing(Erase):
    p: float
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> NDArray[np.int64]:
        boxes, _ = draw_boxes(
            draws,
            heights,
            widths,
            scale=self.scale,
            ratio=self.ratio,
            wanted=draws.rand() < self.p,
            fits=lambda height, width: (height < heights) & (width < widths),
            upright=True,
        )
        return boxes


def read_random_erasing(transform: Any, place: Place) -> RandomErasing:
    value = transform.value
    if value is None or isinstance(value, str):
        raise Unreadable('value="random" draws a number for every pixel')
    if place.holds in ("pil", "uint8 array"):
        raise Unreadable("erases tensors, and is given an image")
    values = (float(value),) if isinstance(value, (int, float)) else tuple(float(number) for number in value)
    return RandomErasing(
        transform=transform,
        label=shown(transform, transform.p, value=values[0] if len(values) == 1 else values),
        value=values,
        stage=place.stage,
        p=transform.p,
        scale=(transform.scale[0], transform.scale[1]),
        ratio=(transform.ratio[0], transform.ratio[1]),
    )
