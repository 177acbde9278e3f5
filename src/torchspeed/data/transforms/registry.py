"""The registry: which reader reads which transform of torchvision, v1 and v2 alike; one line per class."""

from collections.abc import Callable
from typing import Any

from torchspeed.data.pipeline.operation import Step
from torchspeed.data.transforms.affine import read_random_affine, read_random_rotation
from torchspeed.data.transforms.blur import read_gaussian_blur
from torchspeed.data.transforms.color_jitter import read_color_jitter
from torchspeed.data.transforms.control import read_random_apply, read_random_choice, read_random_order
from torchspeed.data.transforms.convert import (
    read_normalize,
    read_to_byte_tensor,
    read_to_dtype,
    read_to_pil,
    read_to_tensor,
)
from torchspeed.data.transforms.crop import read_center_crop, read_random_crop
from torchspeed.data.transforms.enhance import read_random_enhance
from torchspeed.data.transforms.erase import read_random_erasing
from torchspeed.data.transforms.flip import read_flip
from torchspeed.data.transforms.grayscale import read_grayscale, read_random_grayscale
from torchspeed.data.transforms.pad import read_pad
from torchspeed.data.transforms.rand_augment import read_auto_augment, read_rand_augment, read_trivial_augment
from torchspeed.data.transforms.reading import Place
from torchspeed.data.transforms.resize import read_random_resized_crop, read_resize

READERS: dict[str, Callable[[Any, Place], Step]] = {
    "AutoAugment": read_auto_augment,
    "CenterCrop": read_center_crop,
    "ColorJitter": read_color_jitter,
    "ConvertImageDtype": read_to_dtype,
    "GaussianBlur": read_gaussian_blur,
    "Grayscale": read_grayscale,
    "Normalize": read_normalize,
    "PILToTensor": read_to_byte_tensor,
    "Pad": read_pad,
    "RandAugment": read_rand_augment,
    "RandomAdjustSharpness": read_random_enhance,
    "RandomAffine": read_random_affine,
    "RandomApply": read_random_apply,
    "RandomAutocontrast": read_random_enhance,
    "RandomChoice": read_random_choice,
    "RandomCrop": read_random_crop,
    "RandomEqualize": read_random_enhance,
    "RandomErasing": read_random_erasing,
    "RandomGrayscale": read_random_grayscale,
    "RandomHorizontalFlip": read_flip,
    "RandomInvert": read_random_enhance,
    "RandomOrder": read_random_order,
    "RandomPosterize": read_random_enhance,
    "RandomResizedCrop": read_random_resized_crop,
    "RandomRotation": read_random_rotation,
    "RandomSolarize": read_random_enhance,
    "RandomVerticalFlip": read_flip,
    "Resize": read_resize,
    "ToDtype": read_to_dtype,
    "ToImage": read_to_byte_tensor,
    "ToPILImage": read_to_pil,
    "ToPureTensor": read_to_byte_tensor,
    "ToTensor": read_to_tensor,
    "TrivialAugmentWide": read_trivial_augment,
}
ARRAY_READERS = ("ToImage", "ToPILImage", "ToTensor")  # what may be given a NumPy array
