"""What changes the levels of an image where they are: by name, for automatic augmentation, and with a probability.

``RandomInvert``, ``RandomPosterize``, ``RandomSolarize``, ``RandomAdjustSharpness``, ``RandomAutocontrast``,
``RandomEqualize``.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images, Rules
from torchspeed.data.pipeline.operation import Operation, Params, Sizes, Unreadable
from torchspeed.data.transforms.reading import Place, rules_of, shown

ENHANCEMENTS = (
    "AutoContrast",
    "Brightness",
    "Color",
    "Contrast",
    "Equalize",
    "Hue",
    "Invert",
    "Posterize",
    "Sharpness",
    "Solarize",
)


def enhance(images: Images, name: str, amounts: NDArray[np.float64], rules: Rules) -> None:
    """One of ``ENHANCEMENTS``, as torchvision's automatic augmentation calls them; ``amounts``: [B]."""
    if name == "AutoContrast":
        images.autocontrast(rules)
    elif name == "Brightness":
        images.brightness(amounts)
    elif name == "Color":
        images.saturation(amounts, rules)
    elif name == "Contrast":
        images.contrast(amounts, rules)
    elif name == "Equalize":
        images.equalize()
    elif name == "Hue":
        images.hue(amounts, rules)
    elif name == "Invert":
        images.invert()
    elif name == "Posterize":
        images.posterize(amounts.astype(np.int64))
    elif name == "Sharpness":
        images.sharpness(amounts, rules)
    else:
        # PyTorch compares levels with a float32.
        images.solarize(amounts if rules == "pillow" else amounts.astype(np.float32).astype(np.float64))


@final
@dataclass(frozen=True, kw_only=True)
class RandomEnhance(Operation):
    """One of ``ENHANCEMENTS`` by ``amount``, with probability ``p``."""

    name: str
    amount: float
    p: float
    rules: Rules
    v2: bool

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return heights, widths

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        drawn = draws.rand()
        return (drawn < np.float32(self.p) if self.v2 else drawn.astype(np.float64) < self.p,)

    def apply(self, images: Images, params: Params) -> None:
        with images.only(params[0]):
            enhance(images, self.name, np.full(len(params[0]), self.amount), self.rules)


def read_random_enhance(transform: Any, place: Place) -> RandomEnhance:
    rules = rules_of(place)
    name, attribute = {
        "RandomAdjustSharpness": ("Sharpness", "sharpness_factor"),
        "RandomAutocontrast": ("AutoContrast", None),
        "RandomEqualize": ("Equalize", None),
        "RandomInvert": ("Invert", None),
        "RandomPosterize": ("Posterize", "bits"),
        "RandomSolarize": ("Solarize", "threshold"),
    }[type(transform).__name__]
    amount = getattr(transform, attribute) if attribute else None
    if name == "Posterize" and amount not in range(1, 9):
        raise Unreadable(f"keeps {amount} bits, of 1 to 8")
    if amount is not None and rules != "pillow" and not 0 <= amount <= 255:
        raise Unreadable(f"{attribute}={amount} raises an error on tensors")
    return RandomEnhance(
        transform=transform,
        label=shown(transform, *([] if amount is None else [amount]), p=transform.p),
        random=True,
        exact=rules == "pillow" or name not in ("Sharpness", "AutoContrast"),
        name=name,
        amount=float(amount or 0),
        p=transform.p,
        rules=rules,
        v2=place.v2,
    )
