"""The registry: which reader reads which transform of torchvision; one file per technique, one line per class."""

from collections.abc import Callable
from typing import Any

from torchspeed.data.pipeline.operation import Step
from torchspeed.data.transforms.convert import read_conversion
from torchspeed.data.transforms.crop import read_center_crop, read_random_crop
from torchspeed.data.transforms.erase import read_random_erasing
from torchspeed.data.transforms.flip import read_flip
from torchspeed.data.transforms.pad import read_pad
from torchspeed.data.transforms.reading import Place
from torchspeed.data.transforms.resize import read_random_resized_crop, read_resize

READERS: dict[str, Callable[[Any, Place], Step]] = {
    "CenterCrop": read_center_crop,
    "ConvertImageDtype": read_conversion,
    "Normalize": read_conversion,
    "PILToTensor": read_conversion,
    "Pad": read_pad,
    "RandomCrop": read_random_crop,
    "RandomErasing": read_random_erasing,
    "RandomHorizontalFlip": read_flip,
    "RandomResizedCrop": read_random_resized_crop,
    "RandomVerticalFlip": read_flip,
    "Resize": read_resize,
    "ToDtype": read_conversion,
    "ToImage": read_conversion,
    "ToPureTensor": read_conversion,
    "ToTensor": read_conversion,
}
