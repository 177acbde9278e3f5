"""Datasets that people write themselves are read by what their code does, whatever their attributes are called."""

import csv
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from torchspeed.data.sources.read import read
from torchspeed.data.sources.source import Hole

N = 50
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 16, 20, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 5, N)


def halve(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image)[::2, ::2].astype(np.float32))


class Pictures(Dataset):  # type: ignore[type-arg]
    """As most people write it."""

    def __init__(self, transform: Any = None) -> None:
        self.pictures, self.labels, self.transform = IMAGES, LABELS, transform

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        image = Image.fromarray(self.pictures[i])
        if self.transform is not None:
            image = self.transform(image)
        return image, int(self.labels[i])


class Wrapper(Dataset):  # type: ignore[type-arg]
    def __init__(self, subset: Any, transform: Any) -> None:
        self.subset, self.transform = subset, transform

    def __len__(self) -> int:
        return len(self.subset)

    def __getitem__(self, i: int) -> Any:
        image, label = self.subset[i]
        return self.transform(image), label


def test_a_subset_wrapped_to_have_a_transform_of_its_own() -> None:
    source = read(Wrapper(Subset(Pictures(), [4, 40, 13]), halve))
    assert source.transform is halve
    assert source.rows is not None
    assert source.rows.tolist() == [4, 40, 13]
    assert source.rest(1) == (Hole(), LABELS[40])


def test_a_subset_class_of_ones_own_with_its_indices() -> None:
    class Chosen(Pictures):
        def __init__(self) -> None:
            self.base, self.which, self.preprocess = Pictures(), np.arange(N - 1, -1, -2), halve

        def __len__(self) -> int:
            return len(self.which)

        def __getitem__(self, i: int) -> Any:
            image, label = self.base[self.which[i]]
            return self.preprocess(image), label

    source = read(Chosen())
    assert source.rows is not None
    assert source.rows.tolist() == list(range(N - 1, -1, -2))
    np.testing.assert_array_equal(source.image(0), IMAGES[N - 1])


def test_a_wrapper_around_a_dataset_that_has_the_transform() -> None:
    class Numbered(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.inner = Pictures(halve)

        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> Any:
            image, label = self.inner[i]
            return {"id": i, "inputs": [image], "target": torch.tensor(label)}

    source = read(Numbered())
    assert source.transform is halve
    assert source.levels is not None
    assert np.shares_memory(source.levels, IMAGES)
    rest = source.rest(7)
    assert rest == source.raw(7)[1] == {"id": 7, "inputs": [Hole()], "target": torch.tensor(LABELS[7])}


def test_named_tuples_stay_named() -> None:
    pair = namedtuple("pair", "label image")

    class Named(Pictures):
        def __getitem__(self, i: int) -> Any:
            image, label = super().__getitem__(i)
            return pair(label, image)

    assert read(Named(halve)).rest(2) == pair(LABELS[2], Hole())


def test_uint8_tensors_with_a_transform(torchvision: ModuleType) -> None:
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous()
    crop = torchvision.transforms.v2.RandomCrop(8)
    source = read(Wrapper(TensorDataset(images, torch.from_numpy(LABELS)), crop))
    assert (source.holds, source.mode) == ("uint8 tensor", "RGB")
    assert source.levels is not None
    assert np.shares_memory(source.levels, images.numpy())
    np.testing.assert_array_equal(source.levels, IMAGES)
    assert source.rest(9) == (Hole(), torch.tensor(LABELS[9]))


def test_arrays_given_to_the_transform_as_they_are(torchvision: ModuleType) -> None:
    class Grey(Pictures):
        def __init__(self) -> None:
            self.x, self.y, self.tf = IMAGES[..., 0], LABELS, torchvision.transforms.ToTensor()

        def __getitem__(self, i: int) -> Any:
            return self.tf(self.x[i]), self.y[i]

    source = read(Grey())
    assert (source.holds, source.mode) == ("uint8 array", "L")
    assert source.levels is not None
    assert source.levels.shape == (N, 16, 20, 1)


def test_floats_are_read_by_the_users_code_alone(torchvision: ModuleType) -> None:
    class Floats(Pictures):
        def __getitem__(self, i: int) -> Any:
            return self.transform(torch.from_numpy(self.pictures[i] / np.float32(255)).permute(2, 0, 1)), 0

    source = read(Floats(torchvision.transforms.RandomCrop(8)))
    assert (source.holds, source.mode, source.levels, source.identity()) == ("float tensor", None, None, None)
    assert source.raw(3)[0].shape == (3, 16, 20)


def test_images_that_are_made_on_the_way_are_read_by_the_users_code() -> None:
    """The array beside them holds something else, and is not taken for them."""

    class Darker(Pictures):
        def __getitem__(self, i: int) -> Any:
            return self.transform(Image.fromarray(self.pictures[i] // 2)), int(self.labels[i])

    source = read(Darker(halve))
    assert (source.levels, source.encoded, source.identity()) == (None, None, None)
    assert source.kind == "Darker samples"
    np.testing.assert_array_equal(source.image(5), IMAGES[5] // 2)
    assert source.rest(5) == (Hole(), LABELS[5])


def test_a_column_that_agrees_by_chance_is_not_taken_for_the_label() -> None:
    """All labels are 0 but one, which no sample that is looked at has; ``labels`` is another column."""

    class Rare(Pictures):
        def __init__(self, odd: int) -> None:
            super().__init__(halve)
            self.odd, self.labels = odd, np.zeros(N, np.int64)
            self.labels[17] = 1

        def __getitem__(self, i: int) -> Any:
            return self.transform(Image.fromarray(self.pictures[i])), int(i == self.odd)

    assert read(Rare(odd=17)).rest(17) == (Hole(), 1)
    assert read(Rare(odd=18)).rest(18) is None


def test_a_column_of_another_thing_is_not_taken_for_the_label() -> None:
    class Weighted(Pictures):
        def __init__(self) -> None:
            super().__init__(halve)
            self.weights = [0] * N

        def __getitem__(self, i: int) -> Any:
            return self.transform(Image.fromarray(self.pictures[i])), int(i == 17)

    assert read(Weighted()).rest(17) is None


def test_a_transform_that_is_kept_twice(torchvision: ModuleType) -> None:
    """As in those datasets of torchvision that transform image and target together."""

    class Together(torchvision.datasets.VisionDataset):  # type: ignore[misc,name-defined]
        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> Any:
            return self.transforms(Image.fromarray(IMAGES[i]), int(LABELS[i]))

    source = read(Together("", transform=halve, target_transform=lambda label: -label))
    assert source.transform is halve
    assert source.raw(3)[1] == (Hole(), -LABELS[3])


class Files(Dataset):  # type: ignore[type-arg]
    """The custom dataset of PyTorch's tutorial, without pandas."""

    def __init__(self, table: Path, folder: Path, transform: Any = None, target_transform: Any = None) -> None:
        with table.open() as file:
            self.rows = [(name, int(label)) for name, label in csv.reader(file)]
        self.folder, self.transform, self.target_transform = str(folder), transform, target_transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        name, label = self.rows[i]
        image = Image.open(self.folder + "/images/" + name + ".jpg").convert("RGB")
        if self.transform:
            image = self.transform(image)
        if self.target_transform:
            label = self.target_transform(label)
        return image, label


@pytest.fixture
def files(tmp_path: Path, picture: Callable[..., Any], encode: Callable[..., bytes]) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(30):
        (tmp_path / "images" / f"a{i}.jpg").write_bytes(encode(picture(i, 24 + i)))
    (tmp_path / "table.csv").write_text("".join(f"a{i},{i % 3}\n" for i in reversed(range(30))))
    return tmp_path


def test_names_in_a_table_are_found_as_files(files: Path) -> None:
    source = read(Files(files / "table.csv", files, halve, lambda label: label + 1))
    assert source.kind == "JPEG files"
    assert source.encoded is not None
    assert source.encoded(2) == (files / "images" / "a27.jpg").read_bytes()
    assert source.rest(4) == (Hole(), 25 % 3 + 1)


def test_pandas_tables_are_read(files: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")

    class Tutorial(Files):
        def __init__(self) -> None:
            self.table, self.folder = pandas.read_csv(files / "table.csv", header=None), files
            self.transform = halve

        def __len__(self) -> int:
            return len(self.table)

        def __getitem__(self, i: int) -> Any:
            image = Image.open(self.folder / "images" / f"{self.table.iloc[i, 0]}.jpg").convert("RGB")
            return self.transform(image), self.table.iloc[i, 1]

    source = read(Tutorial())
    assert source.kind == "JPEG files"
    assert source.rest(4) == (Hole(), np.int64(25 % 3))
