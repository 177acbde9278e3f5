"""torchvision's own datasets, on files in their own formats, are read by what their code does."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, random_split

from torchspeed.data.sources.read import read
from torchspeed.data.sources.source import Hole, Source

N = 40
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, N)


def crop_and_flip(torchvision: ModuleType) -> Any:
    t = torchvision.transforms
    return t.Compose([t.RandomCrop(28, 4), t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize((0.5,), (0.2,))])


@pytest.fixture
def cifar10(tmp_path: Path, torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``CIFAR10(root, train=False, …)`` on a python archive of 40 images."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    planes = IMAGES.transpose(0, 3, 1, 2).reshape(N, -1)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": planes, "labels": LABELS.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    return lambda **options: kind(tmp_path, train=False, **options)


def assert_source_is_the_dataset(source: Source, dataset: Any) -> None:
    """The parts of every sample, put together by hand, are the sample; the short ways give what the long one gives."""
    assert len(source) == len(dataset)
    for i in range(len(dataset)):
        raw, (hole, label) = source.raw(i)
        levels = source.image(i)
        np.testing.assert_array_equal(levels.squeeze(), np.asarray(raw))
        if source.levels is not None:
            row = i if source.rows is None else source.rows[i]
            np.testing.assert_array_equal(source.levels[row], levels)
        torch.manual_seed(i)
        image, expected_label = dataset[i]
        torch.manual_seed(i)
        transformed = raw if source.transform is None else source.transform(raw)
        assert (torch.equal if isinstance(image, torch.Tensor) else np.array_equal)(transformed, image)
        assert hole == Hole()
        assert (type(label), label) == (type(expected_label), expected_label)
        assert source.rest(i) in (None, (Hole(), expected_label))


def test_cifar10_is_read_in_place(cifar10: Any, torchvision: ModuleType) -> None:
    dataset = cifar10(transform=crop_and_flip(torchvision))
    source = read(dataset)
    assert (source.kind, source.holds, source.mode, source.rows) == ("CIFAR10 array", "pil", "RGB", None)
    assert source.transform is dataset.transform
    assert source.levels is not None
    assert np.shares_memory(source.levels, dataset.data)
    assert source.rest(3) == (Hole(), int(LABELS[3]))
    assert_source_is_the_dataset(source, dataset)


def test_target_transforms_belong_to_the_rest(cifar10: Any, torchvision: ModuleType) -> None:
    dataset = cifar10(transform=torchvision.transforms.ToTensor(), target_transform=lambda label: label % 2)
    source = read(dataset)
    assert source.rest(3) == (Hole(), int(LABELS[3]) % 2)
    assert_source_is_the_dataset(source, dataset)


def test_a_dataset_without_a_transform_is_read_too(cifar10: Any) -> None:
    dataset = cifar10()
    source = read(dataset)
    assert source.transform is None
    assert source.kind == "CIFAR10 array"
    assert_source_is_the_dataset(source, dataset)


def test_subsets_are_rows_of_the_whole(cifar10: Any, torchvision: ModuleType) -> None:
    dataset = cifar10(transform=crop_and_flip(torchvision))
    split, _ = random_split(dataset, [24, 16], torch.Generator().manual_seed(0))
    for subset, places in (
        (Subset(dataset, range(5, 25)), list(range(5, 25))),
        (split, list(split.indices)),
        (Subset(split, torch.tensor([3, 1, 20])), [split.indices[i] for i in (3, 1, 20)]),
    ):
        source = read(subset)
        assert source.levels is not None
        assert source.rows is not None
        assert np.shares_memory(source.levels, dataset.data)
        assert source.rows.tolist() == places
        assert source.rest(1) == (Hole(), int(LABELS[places[1]]))
        assert_source_is_the_dataset(source, subset)


def test_a_shuffled_subset_of_all_is_never_taken_for_the_whole(cifar10: Any) -> None:
    """Its length is that of the whole, and only two samples changed places."""
    indices = list(range(N))
    indices[11], indices[12] = 12, 11
    source = read(Subset(cifar10(), indices))
    assert source.rows is not None
    assert source.rows.tolist() == indices


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_is_read_in_place(
    name: str, tmp_path: Path, torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    grey = IMAGES[:, :28, :28, 0]
    for kind, values in (("images-idx3", grey), ("labels-idx1", LABELS.astype(np.uint8))):
        header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        (raw / f"train-{kind}-ubyte").write_bytes(header + np.ascontiguousarray(values).tobytes())
    kind = getattr(torchvision.datasets, name)
    monkeypatch.setattr(kind, "_check_exists", lambda self: True)
    dataset = kind(tmp_path, transform=crop_and_flip(torchvision))
    source = read(dataset)
    assert (source.kind, source.mode) == (f"{name} array", "L")
    assert source.levels is not None
    assert source.levels.shape == (N, 28, 28, 1)
    assert np.shares_memory(source.levels, dataset.data.numpy())
    assert source.rest(5) == (Hole(), int(LABELS[5]))
    assert_source_is_the_dataset(source, dataset)


def test_svhn_is_read_in_place_though_its_channels_come_first(
    tmp_path: Path, torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed, which reads the files of SVHN")
    scipy_io.savemat(tmp_path / "test_32x32.mat", {"X": IMAGES.transpose(1, 2, 3, 0), "y": LABELS[:, None] + 1})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    dataset = torchvision.datasets.SVHN(tmp_path, split="test", transform=crop_and_flip(torchvision))
    source = read(dataset)
    assert source.levels is not None
    assert np.shares_memory(source.levels, dataset.data)
    np.testing.assert_array_equal(source.levels, IMAGES)
    assert_source_is_the_dataset(source, dataset)


def test_image_folders_are_read_from_their_files(
    tmp_path: Path, torchvision: ModuleType, picture: Callable[..., Any], encode: Callable[..., bytes]
) -> None:
    for place in range(30):
        label = "cat" if place % 3 else "dog"
        (tmp_path / label).mkdir(exist_ok=True)
        suffix, kind = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))[place % 3]
        (tmp_path / label / f"{place:02}.{suffix}").write_bytes(encode(picture(place, 30 + place), kind))
    dataset = torchvision.datasets.ImageFolder(tmp_path, crop_and_flip(torchvision))
    source = read(dataset)
    assert (source.kind, source.holds, source.mode, source.levels) == ("image files", "pil", "RGB", None)
    assert source.encoded is not None
    assert source.encoded(7) == Path(dataset.samples[7][0]).read_bytes()
    assert [source.rest(i) for i in range(30)] == [(Hole(), target) for _, target in dataset.samples]
    assert_source_is_the_dataset(source, dataset)
    source = read(Subset(dataset, [9, 4]))
    assert source.encoded is not None
    assert source.encoded(0) == Path(dataset.samples[9][0]).read_bytes()
    assert_source_is_the_dataset(source, Subset(dataset, [9, 4]))


def test_celeba_is_read_from_a_folder_that_only_its_images_tell(
    tmp_path: Path, torchvision: ModuleType, picture: Callable[..., Any], encode: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(1, 21)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(encode(picture(i)))
    attributes = np.random.default_rng(2).choice([-1, 1], (20, 40))
    rows = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, attributes, strict=True)]
    numbered = [f"{name} {i}" for i, name in enumerate(names)]
    header = " ".join(f"attribute{i}" for i in range(40))
    for name, lines in {
        "list_eval_partition": [f"{name} 0" for name in names],
        "identity_CelebA": numbered,
        "list_bbox_celeba": ["20", "number", *numbered],
        "list_landmarks_align_celeba": ["20", "number", *numbered],
        "list_attr_celeba": ["20", header, *rows],
    }.items():
        (tmp_path / "celeba" / f"{name}.txt").write_text("\n".join(lines))
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    dataset = torchvision.datasets.CelebA(tmp_path, transform=crop_and_flip(torchvision))
    source = read(dataset)
    assert source.encoded is not None
    assert source.encoded(4) == (folder / "000005.jpg").read_bytes()
    hole, rest = source.rest(4)  # type: ignore[misc]
    assert hole == Hole()
    assert rest.tolist() == ((attributes[4] + 1) // 2).tolist()


def test_both_generations_of_transforms_are_found(cifar10: Any, torchvision: ModuleType) -> None:
    v2 = torchvision.transforms.v2
    transform = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    dataset = cifar10(transform=transform)
    source = read(dataset)
    assert source.transform is transform
    assert isinstance(source.raw(0)[0], Image.Image)
    assert_source_is_the_dataset(source, dataset)
