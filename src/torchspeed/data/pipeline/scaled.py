"""JPEGs decoded at 1/2, 1/4 or 1/8 of their side, where the crop that follows is shrunk by as much anyway."""

from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from torchspeed.data.decode import decode_scaled, read_header
from torchspeed.data.pipeline.program import Program
from torchspeed.data.pipeline.renderer import Renderer
from torchspeed.data.pipeline.stores import EncodedStore, Store
from torchspeed.data.random import Keys
from torchspeed.data.transforms.resize import RandomResizedCrop, Resize
from torchspeed.errors import NotApplicable

Box = NDArray[np.int64]  # top, left, height, width


@final
class ScaledDecoding:
    """Raises ``NotApplicable`` where the scale that is enough is not known from the first step of ``program``."""

    def __init__(self, program: Program) -> None:
        first = program.steps[0] if program.steps else None
        fixed_size = isinstance(first, Resize) and first.shorter is None
        if not (isinstance(first, RandomResizedCrop) or fixed_size):
            found = first.label if first else "nothing"
            raise NotApplicable(f"decode=scaled needs RandomResizedCrop or Resize((h, w)) first; found {found}")
        assert isinstance(first, (RandomResizedCrop, Resize))
        self.crops, self.height, self.width = isinstance(first, RandomResizedCrop), first.height, first.width

    def images(self, renderer: Renderer, store: Store, indices: NDArray[np.int64], keys: Keys) -> Tensor:
        """[B, C, H, W], as ``renderer.images`` gives them of images that are decoded in full."""
        assert isinstance(store, EncodedStore)
        places = indices.tolist()
        data = [store.encoded(i) for i in places]
        names = [f"sample {i}".__str__ for i in places]
        headers = [read_header(each, name) for each, name in zip(data, names, strict=True)]
        heights = np.array([header.height for header in headers])
        widths = np.array([header.width for header in headers])
        params, size = renderer.program.draw(keys, heights, widths)
        zero = np.zeros_like(heights)
        boxes: Box = params[0][0] if self.crops else np.stack([zero, zero, heights, widths], axis=1)
        levels = []
        for place, box in enumerate(boxes):
            header = headers[place]
            enough = -(-header.height * self.height // box[2]), -(-header.width * self.width // box[3])
            at_least = int(enough[0]), int(enough[1])
            if header.kind in store.source.kinds:
                image, factor = decode_scaled(data[place], store.mode, names[place], at_least)
            else:  # a kind that the user's code was not seen to read
                image, factor = store.source.image(places[place]), 1
            levels.append(image)
            if self.crops and factor > 1:
                box[:] = _shrunk(box, factor, image.shape[0], image.shape[1])
        return renderer.render(levels, None, params, size)


def _shrunk(box: Box, factor: int, height: int, width: int) -> Box:
    """The box in the image at 1 / ``factor`` of its side, rounded to whole pixels, inside it."""
    top, left, tall, wide = np.rint(box / factor).astype(np.int64).tolist()
    tall, wide = min(max(tall, 1), height), min(max(wide, 1), width)
    return np.array([min(top, height - tall), min(left, width - wide), tall, wide])
