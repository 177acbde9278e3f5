"""FFCV and kornia on the works of ``data.py``, each as its own documentation would have it, each in its best form.

FFCV (Leclerc et al., arXiv:2306.12517) reads files of its own, written beforehand from the same images: JPEG of the
same quality, or plain pixels. Its batches are channels_last views, which is what it makes fastest. Like the
``DataLoader``'s, its epochs are as long as a block needs.

kornia (Riba et al., arXiv:1910.02190) augments batches of tensors. Where images are resized on a CPU its Rust part,
``kornia_rs``, is used, which resizes and normalises in one pass and is several times faster than kornia's tensors. It
resizes without the low-pass filter that torchvision has, so for smaller pictures it does less than the others.

    python data_peers.py FOLDER         # writes FFCV's files into FOLDER
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from data_work import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PHOTOGRAPH,
    SIDE,
    WORKERS,
    Options,
    Work,
    cifar10,
    statistics,
    torchvision,
)
from data_worker import Loader, WithDataLoader, as_wanted

JPEG_QUALITY = 85
BETONS = {"cifar10": "raw", "photographs_jpg": "jpg", "photographs_raw": "raw"}
LONG_EPOCH = 50_000  # samples; what an epoch of FFCV is cut from


class WithFFCV(Loader):
    """Its threads fill one batch together, up to three batches ahead."""

    def __init__(self, work: Work, folder: Path, options: Options, device: str) -> None:
        from ffcv.loader import Loader as Beton  # type: ignore[import-not-found, unused-ignore]
        from ffcv.loader import OrderOption
        from ffcv.reader import Reader  # type: ignore[import-not-found, unused-ignore]

        path = str(folder / f"{options['beton']}.beton")
        self.samples, self.batch_size = int(Reader(path).num_samples), work.batch_size
        self.loader = Beton(
            path,
            batch_size=work.batch_size,
            num_workers=WORKERS,
            order=OrderOption.RANDOM,
            indices=np.resize(np.arange(self.samples), max(self.samples, LONG_EPOCH)),
            pipelines=ffcv_pipelines(work, options, device),
        )

    def batches(self, count: int) -> Iterator[Any]:
        count = min(count, len(self.loader))
        self.loader.traversal_order.indices = np.random.randint(self.samples, size=count * self.batch_size)
        yield from self.loader


def ffcv_pipelines(work: Work, options: Options, device: str) -> dict[str, list[Any]]:
    from ffcv import transforms  # type: ignore[import-not-found, unused-ignore]
    from ffcv.fields import decoders, rgb_image  # type: ignore[import-not-found, unused-ignore]

    mean, std = (255 * np.array(values) for values in statistics(work))
    if work.name == "tutorial":  # the middle of 32×32 images, all of it, brought to 224×224
        opening = [rgb_image.CenterCropRGBImageDecoder((SIDE, SIDE), ratio=1)]
    elif work.name == "photographs":
        opening = [rgb_image.RandomResizedCropRGBImageDecoder((SIDE, SIDE)), transforms.RandomHorizontalFlip()]
    else:
        opening = [decoders.SimpleRGBImageDecoder(), transforms.RandomHorizontalFlip(), transforms.RandomTranslate(4)]
    image = [
        *opening,
        transforms.NormalizeImage(mean, std, np.float16 if options.get("float16") else np.float32),
        transforms.ToTensor(),
        transforms.ToTorchImage(),
    ]
    label = [decoders.IntDecoder(), transforms.ToTensor()]
    if device == "cpu":
        return {"image": image, "label": label}
    return {
        name: [*steps, transforms.ToDevice(torch.device(device))]
        for name, steps in (("image", image), ("label", label))
    }


def write_betons(folder: Path) -> dict[str, float]:
    """Seconds that writing each of FFCV's files took."""
    from ffcv.fields import IntField, RGBImageField  # type: ignore[import-not-found, unused-ignore]
    from ffcv.writer import DatasetWriter  # type: ignore[import-not-found, unused-ignore]

    seconds = {}
    for name, mode in BETONS.items():
        images = cifar10(folder) if name == "cifar10" else torchvision().datasets.ImageFolder(folder / "photographs")
        fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=JPEG_QUALITY), "label": IntField()}
        began = time.perf_counter()
        DatasetWriter(str(folder / f"{name}.beton"), fields, num_workers=WORKERS).from_indexed_dataset(images)
        seconds[name] = time.perf_counter() - began
    return seconds


class WithKornia(Loader):
    """Batches gathered from an array in memory, given to ``augment``."""

    def __init__(self, images: Any, labels: Tensor, augment: Callable[[Any], Tensor], work: Work, device: str) -> None:
        self.images, self.labels, self.augment, self.work, self.device = images, labels, augment, work, device

    def batches(self, count: int) -> Iterator[Any]:
        for _ in range(count):
            where = torch.randint(len(self.labels), (self.work.batch_size,), device=self.labels.device)
            with torch.no_grad():
                yield as_wanted(self.augment(self.images[where]), self.work, self.device), self.labels[where]


def make_kornia(work: Work, folder: Path, options: Options, device: str) -> Loader:
    if work.name == "photographs":
        photographs = RustPhotographs(folder)
        if not options.get("decoded"):
            return WithDataLoader(photographs, work, WORKERS, device)
        images, labels = np.stack([photographs.decode(path) for path in photographs.paths]), photographs.labels
        by_rust: Callable[[Any], Tensor] = photographs.prepare_batch
    else:
        data: Any = cifar10(folder)
        images, labels, by_rust = np.ascontiguousarray(data.data), data.targets, rust_resize(*statistics(work))
    answers = torch.tensor(labels, device=device)
    if device == "cpu" and work.name in ("photographs", "tutorial"):
        return WithKornia(images, answers, by_rust, work, device)
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    modules = kornia_modules(work).to(device)
    return WithKornia(planes, answers, lambda batch: modules(batch.float().div_(255)), work, device)


def kornia_modules(work: Work) -> nn.Module:
    import kornia.augmentation as K  # type: ignore[import-not-found, unused-ignore]

    normalise = K.Normalize(*map(torch.tensor, statistics(work)))
    if work.name == "tutorial":
        return nn.Sequential(K.Resize((SIDE, SIDE)), normalise)
    # Its other way of cropping, "slice", is the slower one.
    if work.name == "photographs":
        crop = K.RandomResizedCrop((SIDE, SIDE), cropping_mode="resample")
    else:
        crop = K.RandomCrop((32, 32), padding=4, cropping_mode="resample")
    return nn.Sequential(crop, K.RandomHorizontalFlip(), normalise)


def rust_resize(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Any], Tensor]:
    """uint8 pictures [H, W, 3] -> float32 [B, 3, 224, 224], by all of its threads."""
    from kornia_rs.pipeline import (  # type: ignore[import-not-found, unused-ignore]
        resize_normalize_to_tensor_batch,
    )

    def resize(pictures: Any) -> Tensor:
        return torch.from_numpy(np.stack(resize_normalize_to_tensor_batch(list(pictures), (SIDE, SIDE), mean, std)))

    return resize


class RustPhotographs(Dataset[tuple[Tensor, int]]):
    """Photographs read by kornia_rs; where to crop is drawn by torchvision's rule, for kornia_rs has none."""

    def __init__(self, folder: Path) -> None:
        from kornia_rs.io import read_image_jpegturbo  # type: ignore[import-not-found, unused-ignore]
        from kornia_rs.pipeline import (  # type: ignore[import-not-found, unused-ignore]
            resize_normalize_to_tensor,
        )

        samples = torchvision().datasets.ImageFolder(folder / "photographs").samples
        self.paths, self.labels = [path for path, _ in samples], [label for _, label in samples]
        self.decode, self.resize = read_image_jpegturbo, resize_normalize_to_tensor
        self.resize_batch = rust_resize(IMAGENET_MEAN, IMAGENET_STD)
        self.draw = torchvision().transforms.RandomResizedCrop.get_params
        self.like = torch.empty(3, *reversed(PHOTOGRAPH))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.crop(self.decode(self.paths[index]))
        return torch.from_numpy(self.resize(picture, (SIDE, SIDE), IMAGENET_MEAN, IMAGENET_STD)), self.labels[index]

    def crop(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        top, left, height, width = self.draw(self.like, (0.08, 1.0), (3 / 4, 4 / 3))
        cropped = picture[top : top + height, left : left + width]
        return np.ascontiguousarray(cropped[:, ::-1] if torch.rand(()) < 0.5 else cropped)

    def prepare_batch(self, pictures: NDArray[np.uint8]) -> Tensor:
        return self.resize_batch([self.crop(picture) for picture in pictures])


if __name__ == "__main__":
    print(json.dumps(write_betons(Path(sys.argv[1]))))
