"""A shorter way that is right for most samples only is found out, and the user's own code is run in its place."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from torchspeed.data.sources.read import read
from torchspeed.data.sources.source import Hole, Opaque, Source

N = 400
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 6, 6, 3), np.uint8)
SEEDS = (2, 4)  # with these the few that differ are not among the samples looked at first
LONG = 600.0  # seconds: all samples are compared, however slow the machine


def floats(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image) / np.float32(255))


def some(seed: int, part: float = 0.02) -> list[int]:
    rare: list[int] = np.random.default_rng(seed).choice(N, int(N * part), replace=False).tolist()
    return rare


class Pictures(Dataset):  # type: ignore[type-arg]
    def __init__(self, transform: Any = floats) -> None:
        self.data, self.targets, self.transform = IMAGES, [i % 7 for i in range(N)], transform

    def __len__(self) -> int:
        return N

    def raw(self, i: int) -> Any:
        return Image.fromarray(self.data[i])

    def label(self, i: int) -> Any:
        return self.targets[i]

    def __getitem__(self, i: int) -> Any:
        return self.transform(self.raw(i)), self.label(i)


class Corrected(Pictures):
    def __init__(self, rare: list[int]) -> None:
        super().__init__()
        self.corrected = list(self.targets)
        for i in rare:
            self.corrected[i] = (self.corrected[i] + 1) % 7

    def label(self, i: int) -> Any:
        return self.corrected[i]


class Poisoned(Pictures):
    def __init__(self, rare: list[int]) -> None:
        super().__init__()
        self.rare = set(rare)

    def raw(self, i: int) -> Any:
        levels = self.data[i].copy()
        levels[-2:, -2:] ^= np.uint8(255 * (i in self.rare))
        return Image.fromarray(levels)


class Repaired(Pictures):
    """Two arrays that differ in a few images."""

    def __init__(self, rare: list[int]) -> None:
        super().__init__()
        self.repaired = self.data.copy()
        self.repaired[rare, 0, 0] ^= 255

    def raw(self, i: int) -> Any:
        return Image.fromarray(self.repaired[i])


class Merged(Pictures):
    """The ``target_transform`` changes one class of many."""

    def __init__(self) -> None:
        super().__init__()
        self.targets = [i % 50 for i in range(N)]
        self.target_transform = lambda label: 0 if label == 49 else label

    def label(self, i: int) -> Any:
        return self.target_transform(self.targets[i])


def assert_source_is_the_dataset(source: Source, dataset: Pictures) -> None:
    for i in range(N):
        np.testing.assert_array_equal(source.image(i), np.asarray(dataset.raw(i)))
        assert source.rest(i) in (None, (Hole(), dataset.label(i)))


@pytest.mark.parametrize("part", [0.02, 0.05])
@pytest.mark.parametrize("seed", SEEDS)
def test_of_two_columns_of_labels_the_one_that_the_dataset_gives_is_taken(seed: int, part: float) -> None:
    dataset = Corrected(some(seed, part))
    source = read(dataset, seconds=0.0)
    assert [source.rest(i) for i in range(N)] == [(Hole(), label) for label in dataset.corrected]


def test_a_target_transform_is_seen_though_it_changes_little() -> None:
    assert_source_is_the_dataset(read(Merged(), seconds=0.0), Merged())
    assert read(Merged(), seconds=0.0).rest(0) is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_of_two_arrays_the_one_that_the_dataset_gives_is_taken(seed: int) -> None:
    dataset = Repaired(some(seed))
    source = read(dataset, seconds=0.0)
    assert source.levels is not None
    assert np.shares_memory(source.levels, dataset.repaired)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_array_of_which_a_few_images_are_altered_is_not_taken_for_them(seed: int) -> None:
    dataset = Poisoned(some(seed))
    source = read(dataset, seconds=LONG)
    assert source.levels is None
    assert source.identity() is None
    assert_source_is_the_dataset(source, dataset)


def test_files_of_which_a_few_are_altered_are_not_taken_for_the_images(tmp_path: Any, encode: Any) -> None:
    class Files(Poisoned):
        def __init__(self, rare: list[int]) -> None:
            super().__init__(rare)
            self.paths = [tmp_path / f"{i:03}.png" for i in range(N)]
            for path, levels in zip(self.paths, IMAGES, strict=True):
                path.write_bytes(encode(levels, "PNG"))
            del self.data

        def raw(self, i: int) -> Any:
            image = Image.open(self.paths[i]).convert("RGB")
            return image.rotate(180) if i in self.rare else image

    assert read(Files([]), seconds=LONG).encoded is not None
    rare = [i for i in some(0) if i not in (0, N - 1)]
    source = read(Files(rare), seconds=LONG)
    assert source.encoded is None
    assert_source_is_the_dataset(source, Files(rare))


def test_labels_of_which_a_few_are_altered_are_asked_of_the_dataset_while_the_array_is_kept() -> None:
    class Relabelled(Pictures):
        def label(self, i: int) -> Any:
            return 6 - self.targets[i] if i in (111, 222) else self.targets[i]

    assert read(Relabelled(), seconds=0.0).rest(0) is not None, "the few are not among those looked at first"
    source = read(Relabelled(), seconds=LONG)
    assert source.rest(0) is None
    assert source.levels is not None


def test_images_of_another_mode_leave_none_in_common() -> None:
    class Greyed(Pictures):
        def raw(self, i: int) -> Any:
            return super().raw(i).convert("L") if i == 111 else super().raw(i)

    source = read(Greyed(), seconds=LONG)
    assert (source.mode, source.levels) == (None, None)


def test_a_sample_that_is_random_before_its_transform_is_found_among_all() -> None:
    class Rolled(Pictures):
        def raw(self, i: int) -> Any:
            return Image.fromarray(np.roll(self.data[i], np.random.randint(6) if i == 111 else 0, 0))

    with pytest.raises(Opaque, match=r"^sample 111 draws random numbers outside of its transform$"):
        read(Rolled(), seconds=LONG)


def test_how_many_samples_were_compared_is_known() -> None:
    few, short, all_of_them = (read(Pictures(), seconds=s).compared for s in (0.0, 0.02, LONG))
    assert 0 < few <= 16
    assert few < short <= N
    assert all_of_them == N
    assert read(Pictures()).compared == N, "a second is enough for a small dataset"


def test_a_sample_that_cannot_be_loaded_is_no_difference() -> None:
    class Torn(Pictures):
        def raw(self, i: int) -> Any:
            if i == 111:
                raise OSError("torn")
            return super().raw(i)

    source = read(Torn(), seconds=LONG)
    assert source.levels is not None
    assert source.compared == N - 1


def test_comparing_leaves_the_generators_alone() -> None:
    class Drawing(Poisoned):
        def raw(self, i: int) -> Any:
            state = torch.get_rng_state(), np.random.get_state()
            torch.rand(3), np.random.rand(3)
            torch.set_rng_state(state[0]), np.random.set_state(state[1])
            return super().raw(i)

    torch.manual_seed(5), np.random.seed(5)
    expected = torch.rand(()).item(), np.random.rand()
    torch.manual_seed(5), np.random.seed(5)
    assert read(Drawing(some(0)), seconds=LONG).levels is None
    assert (torch.rand(()).item(), np.random.rand()) == expected
