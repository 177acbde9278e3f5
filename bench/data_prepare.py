"""What the works of ``data.py`` read: real data, in the forms that users have them in, in one folder.

CIFAR-10 as the python archive that torchvision's class reads; photographs as a folder of JPEG files; recordings and
characters as arrays, the former with the mel bands, so that all contenders use the same. FFCV's own files are written
by ``data_worker.py``, for they need FFCV.
"""

import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_work import MELS, N_FFT, PHOTOGRAPH
from torchspeed.data.audio import read_spoken_digits
from torchspeed.data.cifar import CLASSES, read_cifar10
from torchspeed.data.image_files import LabelledImages
from torchspeed.data.log_mel import mel_filter_bank
from torchspeed.data.text import Vocabulary, read_text

PHOTOGRAPHS = 1024
QUALITY = 85


def prepare(folder: Path, data: Path) -> None:
    """Fill ``folder`` from ``data`` with its folders cifar10, spoken_digits and shakespeare; what is there, stays."""
    done = folder / "prepared"
    if done.exists():
        return
    write_cifar10(folder / "cifar-10-batches-py", *read_cifar10(data / "cifar10"))
    write_photographs(folder / "photographs")
    train, _ = read_spoken_digits(data / "spoken_digits")
    np.savez(
        folder / "spoken_digits.npz",
        samples=train.samples.numpy(),
        offsets=train.offsets,
        labels=train.labels.numpy(),
        sample_rate=train.sample_rate,
        bank=mel_filter_bank(train.sample_rate, N_FFT, MELS),
    )
    text = read_text(data / "shakespeare" / "input.txt")
    np.save(folder / "characters.npy", Vocabulary.of(text).encode(text).astype(np.uint8))
    done.touch()


def write_cifar10(folder: Path, train: LabelledImages, test: LabelledImages) -> None:
    """The python archive: five files of training images and one of test images, colour plane after colour plane."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = {f"data_batch_{i + 1}": (train, slice(i, None, 5)) for i in range(5)} | {"test_batch": (test, slice(None))}
    for name, (images, rows) in pieces.items():
        planes = images.images[rows].permute(0, 3, 1, 2).reshape(-1, 3072).numpy()
        batch = {"data": planes, "labels": images.labels[rows].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=4))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}, protocol=4))


def write_photographs(folder: Path) -> None:
    """As many JPEG files as said, each another part of one of scikit-learn's two photographs, some mirrored."""
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    generator = np.random.default_rng(0)
    for name, picture in zip(found.filenames, found.images, strict=True):
        kind = folder / Path(name).stem
        kind.mkdir(parents=True, exist_ok=True)
        for number in range(PHOTOGRAPHS // len(found.images)):
            part(picture, generator).save(kind / f"{number:04}.jpg", quality=QUALITY)


def part(picture: NDArray[np.uint8], generator: np.random.Generator) -> Image.Image:
    """A part of at least the wanted size, so that it is as sharp as a photograph, brought to that size."""
    width, height = PHOTOGRAPH
    most = min(picture.shape[1] / width, picture.shape[0] / height)
    scale = generator.uniform(1, most)
    size = int(width * scale), int(height * scale)
    left = generator.integers(picture.shape[1] - size[0] + 1)
    top = generator.integers(picture.shape[0] - size[1] + 1)
    image = Image.fromarray(picture[top : top + size[1], left : left + size[0]])
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.resize(PHOTOGRAPH, Image.Resampling.LANCZOS)
