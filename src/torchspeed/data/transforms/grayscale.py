"""The luminance in all channels: ``Grayscale``, ``RandomGrayscale``."""

from dataclasses import dataclass
from typing import Any, final

from torchspeed.data.pipeline.draws import Draws
from torchspeed.data.pipeline.images import Images, Rules
from torchspeed.data.pipeline.operation import Operation, Params, Sizes
from torchspeed.data.transforms.reading import Place, rules_of, shown


@final
@dataclass(frozen=True, kw_only=True)
class Grayscale(Operation):
    channels: int
    rules: Rules

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return heights, widths

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return ()

    def apply(self, images: Images, params: Params) -> None:
        images.grayscale(self.channels, self.rules)


def read_grayscale(transform: Any, place: Place) -> Grayscale:
    rules, channels = rules_of(place), transform.num_output_channels
    if rules == "tensor" and place.channels == 1:
        channels = 1  # torchvision v1 leaves a grey tensor as it is
    return Grayscale(
        transform=transform,
        label=shown(transform, transform.num_output_channels),
        random=False,
        exact=rules == "pillow",
        channels=channels,
        rules=rules,
    )


@final
@dataclass(frozen=True, kw_only=True)
class RandomGrayscale(Operation):
    p: float
    rules: Rules

    def size(self, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
        return heights, widths

    def draw(self, draws: Draws, heights: Sizes, widths: Sizes) -> Params:
        return (draws.rand() < self.p,)

    def apply(self, images: Images, params: Params) -> None:
        with images.only(params[0]):
            images.grayscale(images.channels, self.rules)


def read_random_grayscale(transform: Any, place: Place) -> RandomGrayscale:
    rules = rules_of(place)
    label = shown(transform, transform.p)
    exact = rules == "pillow"
    return RandomGrayscale(transform=transform, label=label, random=True, exact=exact, p=transform.p, rules=rules)
