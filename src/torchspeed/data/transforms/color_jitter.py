"""``ColorJitter``: brightness, contrast, saturation and hue, each by a random amount, in a random order."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images, Rules
from torchspeed.data.pipeline.operation import Operation, Params, Sizes
from torchspeed.data.transforms.enhance import enhance
from torchspeed.data.transforms.reading import Place, rules_of, shown

_NAMES = ("Brightness", "Contrast", "Color", "Hue")
Range = tuple[float, float]


@final
@dataclass(frozen=True, kw_only=True)
class ColorJitter(Operation):
    """``ranges``: of brightness, contrast, saturation and hue; None where nothing is done."""

    ranges: tuple[Range | None, ...]
    rules: Rules

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return heights, widths

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        order = draws.randperm(len(self.ranges))
        amounts = np.zeros(order.shape)
        for k, range_ in enumerate(self.ranges):
            if range_ is not None:
                amounts[:, k] = draws.uniform(*range_)
        return order, amounts

    def apply(self, images: Images, params: Params) -> None:
        order, amounts = params
        for turn in range(len(self.ranges)):
            for k, name in enumerate(_NAMES):
                if self.ranges[k] is not None:
                    with images.only(order[:, turn] == k):
                        enhance(images, name, amounts[:, k], self.rules)


def read_color_jitter(transform: Any, place: Place) -> ColorJitter:
    rules = rules_of(place)
    ranges = {name: getattr(transform, name) for name in ("brightness", "contrast", "saturation", "hue")}
    return ColorJitter(
        transform=transform,
        label=shown(transform, **ranges),
        random=True,
        exact=rules == "pillow",
        ranges=tuple(ranges.values()),
        rules=rules,
    )
