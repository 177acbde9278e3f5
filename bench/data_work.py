"""The works of ``data.py``: six pipelines as people write them, who competes on each, and what each must move.

The datasets here are the users' own: torchvision's classes with torchvision's transforms, or a dozen lines of Python.
``torchspeed.DataLoader`` is given the very objects that PyTorch's ``DataLoader`` is given. Everything is read from the
folder that ``data_prepare.py`` fills; only PyTorch, NumPy and torchvision are imported, for the peers run it too.

The transforms are the usual ones: CIFAR-10's of He et al., arXiv:1512.03385, section 4.2 (padding of 4, crop, mirror),
ImageNet's of Szegedy et al., arXiv:1409.4842, section 6 (random area and aspect, 224×224), and the ``Resize`` to 224
that tutorials begin with.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOGRAPH = (500, 375)  # width, height
SIDE = 224
MEAN_CROP = 0.54  # of the area, RandomResizedCrop takes uniformly between 0.08 and 1
CONTEXT = 256
SECONDS_OF_SOUND, N_FFT, HOP, MELS, FLOOR = 1.0, 512, 128, 40, 1e-6
WORKERS = 2

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Contender:
    """Somebody who does a work: ``package`` says by which code, ``options`` how; ``label`` is what tables show."""

    label: str
    package: str
    options: Options = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        return self.package == "torchspeed"


@dataclass(frozen=True)
class Work:
    """A pipeline. ``written``: bytes of a finished sample; ``read``: bytes of it that must be read, by (folder, who).

    ``targets``: (who, compared with whom) and the ratio to reach. ``dtype`` and ``channels_last``: of a batch.
    """

    name: str
    title: str
    batch_size: int
    contenders: tuple[Contender, ...]
    targets: Mapping[tuple[str, str], float]
    written: int
    read: Callable[[Path, Contender], float]
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def images(self) -> bool:
        return self.dtype.is_floating_point and self.name != "spoken_digits"

    def contender(self, label: str) -> Contender:
        return next(contender for contender in self.contenders if contender.label == label)


REFERENCE = f"DataLoader, {WORKERS} workers"
_WITH_WORKERS = Contender(REFERENCE, "DataLoader", {"workers": WORKERS})
_WITHOUT = Contender("DataLoader, 0 workers", "DataLoader", {"workers": 0})
_V2 = Contender("DataLoader, v2 on uint8", "DataLoader", {"workers": WORKERS, "v2": True})
_FFCV = Contender("FFCV", "FFCV", {"beton": "cifar10"})
_KORNIA = Contender("kornia", "kornia")
_OURS = Contender("torchspeed", "torchspeed")
_PIXELS = 3 * SIDE * SIDE


def _photograph_bytes(folder: Path, who: Contender) -> float:
    if who.options.get("placement") == "ram":
        return MEAN_CROP * 3 * PHOTOGRAPH[0] * PHOTOGRAPH[1]
    return float(np.mean([path.stat().st_size for path in (folder / "photographs").rglob("*.jpg")]))


def _sound_bytes(folder: Path, who: Contender) -> float:
    if who.options.get("dataset") == "own":
        return _SPECTROGRAM
    with np.load(folder / "spoken_digits.npz") as found:
        lengths = np.diff(found["offsets"])
        return float(4 * np.minimum(lengths, SECONDS_OF_SOUND * found["sample_rate"]).mean())


_SPECTROGRAM = 4 * MELS * (1 + int(SECONDS_OF_SOUND * 8000) // HOP)

WORKS = (
    Work(
        "cifar10",
        "CIFAR-10: crop (padding 4), flip, normalise to float32",
        batch_size=512,
        contenders=(_WITH_WORKERS, _WITHOUT, _V2, _FFCV, _KORNIA, _OURS),
        targets={("torchspeed", REFERENCE): 60, ("torchspeed", "FFCV"): 1, ("torchspeed", "kornia"): 1},
        written=4 * 3072,
        read=lambda folder, who: 3072,
    ),
    Work(
        "cifar10_bf16",
        "The same, out in bfloat16 and channels_last (FFCV: float16, it has no bfloat16)",
        batch_size=512,
        contenders=(
            _WITH_WORKERS,
            Contender("FFCV, float16", "FFCV", {"beton": "cifar10", "float16": True}),
            _KORNIA,
            Contender("torchspeed, float32", "torchspeed", {"dtype": torch.float32, "channels_last": False}),
            _OURS,
        ),
        targets={
            ("torchspeed", "torchspeed, float32"): 1.3,
            ("torchspeed", "FFCV, float16"): 1,
            ("torchspeed", "kornia"): 1,
        },
        written=2 * 3072,
        read=lambda folder, who: 3072,
        dtype=torch.bfloat16,
        channels_last=True,
    ),
    Work(
        "tutorial",
        "CIFAR-10: Resize((224, 224)), ToTensor, Normalize",
        batch_size=64,
        contenders=(_WITH_WORKERS, _WITHOUT, _V2, _FFCV, _KORNIA, _OURS),
        targets={("torchspeed", REFERENCE): 15, ("torchspeed", "FFCV"): 1, ("torchspeed", "kornia"): 1},
        written=4 * _PIXELS,
        read=lambda folder, who: 3072,
    ),
    Work(
        "photographs",
        "Photographs of 500×375, JPEG: RandomResizedCrop(224), flip, normalise",
        batch_size=64,
        contenders=(
            _WITH_WORKERS,
            _WITHOUT,
            _V2,
            Contender("FFCV, jpg", "FFCV", {"beton": "photographs_jpg"}),
            Contender("FFCV, raw", "FFCV", {"beton": "photographs_raw"}),
            _KORNIA,
            Contender("kornia, decoded", "kornia", {"decoded": True}),
            Contender("torchspeed, exact", "torchspeed", {"decode": "exact", "placement": "none"}),
            Contender("torchspeed, scaled", "torchspeed", {"decode": "scaled", "placement": "none"}),
            Contender("torchspeed, decoded", "torchspeed", {"decode": "exact", "placement": "ram"}),
        ),
        targets={
            ("torchspeed, exact", REFERENCE): 2,
            ("torchspeed, scaled", REFERENCE): 4,
            ("torchspeed, decoded", REFERENCE): 10,
            ("torchspeed, exact", "FFCV, jpg"): 1,
            ("torchspeed, exact", "kornia"): 1,
            ("torchspeed, scaled", "FFCV, jpg"): 1,
            ("torchspeed, scaled", "kornia"): 1,
            ("torchspeed, decoded", "FFCV, raw"): 1,
            ("torchspeed, decoded", "kornia, decoded"): 1,
        },
        written=4 * _PIXELS,
        read=_photograph_bytes,
    ),
    Work(
        "spoken_digits",
        f"Spoken digits of {SECONDS_OF_SOUND:g} s: log-mel of {MELS} bands",
        batch_size=64,
        contenders=(
            _WITH_WORKERS,
            _WITHOUT,
            Contender("torchspeed", "torchspeed", {"dataset": "library"}),
            Contender("torchspeed, own dataset", "torchspeed", {"dataset": "own"}),
        ),
        targets={("torchspeed", REFERENCE): 10, ("torchspeed, own dataset", REFERENCE): 10},
        written=_SPECTROGRAM,
        read=_sound_bytes,
    ),
    Work(
        "characters",
        f"Characters: windows of {CONTEXT}, inputs and targets",
        batch_size=64,
        contenders=(_WITH_WORKERS, _WITHOUT, _OURS),
        targets={("torchspeed", REFERENCE): 50},
        written=2 * 8 * CONTEXT,
        read=lambda folder, who: CONTEXT + 1,
        dtype=torch.int64,
    ),
)


def work_called(name: str) -> Work:
    return next(work for work in WORKS if work.name == name)


@cache
def torchvision() -> Any:
    """The package; where its operators were built for another PyTorch than this, its Python part alone."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # "operator torchvision::nms does not exist"; the names suffice, nobody here calls it
        for operator in ("nms", "qnms"):
            _operators.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    for part in ("datasets", "transforms", "transforms.v2"):
        importlib.import_module(f"torchvision.{part}")
    return importlib.import_module("torchvision")


_operators: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def dataset(work: Work, folder: Path, v2: bool = False) -> Dataset[Any]:
    """The user's dataset of a work; ``v2``: with torchvision's second transforms, on tensors of bytes."""
    if work.name == "spoken_digits":
        return LogMelOfEach(folder)
    if work.name == "characters":
        return CharacterWindows(np.load(folder / "characters.npy"))
    if work.name == "photographs":
        return torchvision().datasets.ImageFolder(folder / "photographs", transform(work, v2))  # type: ignore[no-any-return]
    return cifar10(folder, transform(work, v2))


def cifar10(folder: Path, transform: Any = None) -> Dataset[Any]:
    """torchvision's CIFAR10. The images here went through JPEG, so the archive's checksums are not asked for."""
    kind = torchvision().datasets.CIFAR10
    kind.train_list = [[name, None] for name, _ in kind.train_list]
    kind.test_list = [[name, None] for name, _ in kind.test_list]
    kind.meta = {**kind.meta, "md5": None}
    return kind(folder, train=True, transform=transform)  # type: ignore[no-any-return]


def transform(work: Work, v2: bool) -> Any:
    package = torchvision().transforms
    mean, std = statistics(work)
    if v2:
        package = package.v2
        opening, closing = [package.ToImage()], [package.ToDtype(torch.float32, scale=True)]
    else:
        opening, closing = [], [package.ToTensor()]
    moves = {
        "tutorial": lambda: [package.Resize((SIDE, SIDE))],
        "photographs": lambda: [package.RandomResizedCrop(SIDE), package.RandomHorizontalFlip()],
    }.get(work.name, lambda: [package.RandomCrop(32, padding=4), package.RandomHorizontalFlip()])()
    return package.Compose([*opening, *moves, *closing, package.Normalize(mean, std)])


def statistics(work: Work) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of the colours, where white is 1."""
    return (CIFAR_MEAN, CIFAR_STD) if work.name.startswith("cifar10") else (IMAGENET_MEAN, IMAGENET_STD)


class LogMelOfEach(Dataset[tuple[Tensor, int]]):
    """A recording, cut or padded to one second, and its spectrogram: one ``torch.stft`` per sample."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "spoken_digits.npz") as found:
            ends = found["offsets"][1:-1].tolist()
            self.waveforms = torch.tensor_split(torch.from_numpy(found["samples"]), ends)
            self.labels: list[int] = found["labels"].tolist()
            self.bank = torch.from_numpy(found["bank"])
            self.length = int(SECONDS_OF_SOUND * int(found["sample_rate"]))
        self.window = torch.hann_window(N_FFT)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        waveform = self.waveforms[index]
        before = (self.length - len(waveform)) // 2
        waveform = torch.nn.functional.pad(waveform, (before, self.length - len(waveform) - before))
        spectrum = torch.stft(waveform, N_FFT, HOP, window=self.window, pad_mode="constant", return_complex=True)
        return (self.bank @ spectrum.abs().square()).clamp_min(FLOOR).log(), self.labels[index]


class CharacterWindows(Dataset[tuple[Tensor, Tensor]]):
    """Every window of a text, and the same one character later."""

    def __init__(self, tokens: NDArray[np.uint8]) -> None:
        self.tokens = torch.from_numpy(tokens.astype(np.int64))

    def __len__(self) -> int:
        return len(self.tokens) - CONTEXT

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tokens[index : index + CONTEXT], self.tokens[index + 1 : index + CONTEXT + 1]
