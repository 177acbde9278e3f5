"""What is kept, where, and what is left as written; every plan says so."""

import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset

from torchspeed.data.loader import OrderedLoader
from torchspeed.data.pipeline.compile import compile_dataset
from torchspeed.data.pipeline.compiled import Compiled, Continued, Kept, Lowered
from torchspeed.data.pipeline.settings import Settings
from torchspeed.errors import DataError, NotApplicable
from vision import MEAN, STD, Pictures, pictures, v1

IMAGES = pictures(20)
END = [v1.ToTensor(), v1.Normalize(MEAN, STD)]


def same(dataset: Any, compiled: Any) -> None:
    ours, theirs = (OrderedLoader(data, 7, seed=2, shuffle=True) for data in (compiled, dataset))
    for epoch in (0, 3):
        for mine, other in zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True):
            assert type(mine) is type(other)
            assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


def where(compiled: Compiled) -> dict[str, str]:
    return {row.what.split("(")[0]: row.where for row in compiled.rows}


def shrink(image: Any) -> Any:
    """A transform of one's own that always does the same."""
    return image.resize((16, 16))


def brighten_sometimes(image: Any) -> Any:
    return image.point(lambda level: min(255, level + 40)) if random.random() < 0.5 else image


class Folder(Dataset[Any]):
    """Files in a folder and a transform, as people write it; ``loads`` counts the files that were opened."""

    def __init__(self, folder: Path, transform: Any) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        self.transform = transform
        self.loads = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        self.loads += 1
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, image in enumerate(pictures(20, 60, 80)):
        Image.fromarray(image[: 60 - number % 3]).save(folder / f"{number:02d}.jpg", quality=90)
    return folder


def test_an_array_stays_where_it_lies_and_is_not_copied() -> None:
    compiled = compile_dataset(Pictures(IMAGES, v1.Compose(END)), Settings())
    compiled.prepare()
    assert isinstance(compiled, Lowered)
    assert np.shares_memory(compiled.store.fetch(np.arange(2))[0], IMAGES)
    assert compiled.rows[0].where == "RAM, as it lies"


def test_an_enlarging_resize_is_computed_and_not_kept() -> None:
    dataset = Pictures(IMAGES, v1.Compose([v1.Resize((64, 64)), *END]))
    compiled = compile_dataset(dataset, Settings())
    assert where(compiled)["Resize"] == "batched kernel"
    same(dataset, compiled)


def test_a_reducing_resize_of_files_is_done_once_and_kept(folder: Path) -> None:
    dataset = Folder(folder, v1.Compose([v1.Resize((24, 24)), v1.RandomCrop(20), *END]))
    compiled = compile_dataset(dataset, Settings(placement="ram"))
    assert "once" in where(compiled)["Resize"]
    same(dataset, compiled)


def test_images_of_different_sizes_are_kept_side_by_side(folder: Path) -> None:
    dataset = Folder(folder, v1.Compose([v1.RandomResizedCrop(24), *END]))
    for placement in ("ram", "none"):
        compiled = compile_dataset(dataset, Settings(placement=placement))  # type: ignore[arg-type]
        same(dataset, compiled)


def test_nothing_is_kept_when_it_does_not_fit(folder: Path) -> None:
    dataset = Folder(folder, v1.Compose([v1.RandomResizedCrop(24), *END]))
    compiled = compile_dataset(dataset, Settings(budget_bytes=1000))
    assert compiled.rows[0].where == "decoded each time"
    same(dataset, compiled)


def test_a_transform_of_ones_own_that_is_deterministic_is_done_once(folder: Path) -> None:
    dataset = Folder(folder, v1.Compose([shrink, v1.RandomHorizontalFlip(), *END]))
    compiled = compile_dataset(dataset, Settings(placement="ram"))
    assert isinstance(compiled, Lowered)
    same(dataset, compiled)


def test_a_transform_of_ones_own_that_draws_is_left_as_written(folder: Path) -> None:
    dataset = Folder(folder, v1.Compose([v1.Resize((24, 24)), brighten_sometimes, v1.RandomHorizontalFlip(), *END]))
    compiled = compile_dataset(dataset, Settings(placement="ram"))
    assert isinstance(compiled, Continued)
    assert where(compiled)["RandomHorizontalFlip"] == "as written, per sample"
    same(dataset, compiled)


def test_where_nothing_would_be_gained_the_reason_is_said() -> None:
    dataset = Pictures(IMAGES, v1.Compose([brighten_sometimes, *END]))
    with pytest.raises(NotApplicable, match="brighten_sometimes"):
        compile_dataset(dataset, Settings())


class Subclassed(v1.RandomHorizontalFlip):
    def forward(self, image: Any) -> Any:
        return image.rotate(90) if torch.rand(1) < 0.5 else image


def test_a_subclass_is_code_of_ones_own() -> None:
    with pytest.raises(NotApplicable, match="Subclassed"):
        compile_dataset(Pictures(IMAGES, v1.Compose([Subclassed(), *END])), Settings())


def test_a_transform_that_was_tampered_with_is_caught_by_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the class and the parameters of a flip, and does something else."""
    monkeypatch.setattr(v1.RandomHorizontalFlip, "forward", Subclassed.forward)
    with pytest.raises(NotApplicable, match="differs from what your code gives"):
        compile_dataset(Pictures(IMAGES, v1.Compose([v1.RandomHorizontalFlip(), *END])), Settings())


def test_subsets_and_concatenations_are_compiled() -> None:
    one = Pictures(IMAGES, v1.Compose([v1.RandomCrop(24), *END]))
    other = Pictures(pictures(9, 40, 40, seed=1), v1.Compose([v1.RandomResizedCrop(24), *END]))
    both = ConcatDataset([one, other])
    for dataset in (Subset(one, [3, 3, 19, 0]), both, Subset(both, [28, 1, 20])):
        same(dataset, compile_dataset(dataset, Settings()))


class Named(Pictures):
    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"pixel_values": image, "label": label, "weight": 0.5}


def test_samples_may_be_dictionaries() -> None:
    dataset = Named(IMAGES, v1.Compose([v1.RandomCrop(24), *END]))
    compiled = compile_dataset(dataset, Settings())
    ours, theirs = OrderedLoader(compiled, 7).batch(0, 0), OrderedLoader(dataset, 7).batch(0, 0)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


class Described(Pictures):
    def __getitem__(self, index: int) -> Any:
        return (*super().__getitem__(index), f"picture {index}")


class Lines(Dataset[Any]):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        return f"line {index}", index


@pytest.mark.parametrize("dataset", [Described(IMAGES, v1.Compose(END)), Lines()], ids=["beside", "alone"])
def test_texts_are_left_as_written(dataset: Any) -> None:
    with pytest.raises(NotApplicable, match="text"):
        compile_dataset(dataset, Settings())


def paint(image: Any) -> Any:
    """In place, as a cutout of one's own often is."""
    top = int(torch.randint(0, 20, (1,)))
    image[top : top + 8, top : top + 8] = 0
    return image


class Arrays(Pictures):
    def __getitem__(self, index: int) -> Any:
        return self.transform(np.array(self.data[index])), index  # type: ignore[misc]


def test_code_that_writes_to_its_image_does_not_write_to_what_is_kept() -> None:
    dataset = Arrays(IMAGES, v1.Compose([shrink_array, paint, v1.ToTensor()]))
    same(dataset, compile_dataset(dataset, Settings(placement="ram")))


def shrink_array(image: Any) -> Any:
    return np.ascontiguousarray(image[:28, :28])


class Mixed(Dataset[Any]):
    """Images of two sizes, which a padding treats one by one."""

    def __init__(self) -> None:
        self.images = [image[: 32 - 4 * (i % 5 == 1)] for i, image in enumerate(pictures(20))]
        self.transform = v1.Compose([v1.RandomCrop(24, padding=4), v1.RandomHorizontalFlip(), *END])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.images[index])), index


def test_images_of_different_sizes_are_padded_by_size() -> None:
    dataset = Mixed()
    compiled = compile_dataset(dataset, Settings(placement="ram"))
    same(dataset, compiled)


class TwoViews:
    def __init__(self, transform: Any) -> None:
        self.inner = transform

    def __call__(self, image: Any) -> Any:
        return [self.inner(image), self.inner(image)]


def test_a_transform_that_gives_two_views_gives_them(folder: Path) -> None:
    dataset = Folder(folder, TwoViews(v1.Compose([v1.RandomResizedCrop(24), *END])))
    compiled = compile_dataset(dataset, Settings(placement="ram"))
    ours, theirs = OrderedLoader(compiled, 7).batch(0, 0), OrderedLoader(dataset, 7).batch(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(ours[0], theirs[0], strict=True))


class Waves(Dataset[Any]):
    """Not images at all: a deterministic dataset that nobody understands."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.calls = 0

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        self.calls += 1
        wave = torch.sin(torch.arange(50) * float(index))
        if self.noise:
            wave = wave + self.noise * torch.randn(50)
        return wave, index


def test_a_deterministic_dataset_is_computed_once() -> None:
    dataset = Waves()
    compiled = compile_dataset(dataset, Settings())
    assert isinstance(compiled, Kept)
    same(Waves(), compiled)
    calls = dataset.calls
    same(Waves(), compiled)
    assert dataset.calls == calls


def test_a_dataset_that_draws_is_not_kept_even_if_it_seldom_shows() -> None:
    with pytest.raises(NotApplicable, match="draws from the generator of PyTorch"):
        compile_dataset(Waves(noise=1e-30), Settings())


class Counting(Waves):
    def __getitem__(self, index: int) -> Any:
        wave, _ = super().__getitem__(index)
        return wave + self.calls, index


def test_a_dataset_that_depends_on_its_own_state_is_not_kept() -> None:
    with pytest.raises(NotApplicable, match="gives another result at each call"):
        compile_dataset(Counting(), Settings())


class Ragged(Waves):
    def __init__(self, odd: int) -> None:
        super().__init__()
        self.odd = odd

    def __getitem__(self, index: int) -> Any:
        wave, index = super().__getitem__(index)
        return wave[: 50 - (index == self.odd)], index


def test_ragged_samples_are_left_as_written_where_it_is_seen() -> None:
    with pytest.raises(NotApplicable, match="numbers of one shape"):
        compile_dataset(Ragged(0), Settings())


def test_ragged_samples_end_in_an_error_with_the_place_and_not_in_a_hang() -> None:
    compiled = compile_dataset(Ragged(14), Settings())
    with pytest.raises(DataError, match="cannot be put into one batch"):
        compiled.prepare()


def test_a_mapped_cache_is_used_again_and_built_anew_when_a_file_changes(folder: Path, tmp_path: Path) -> None:
    def load() -> tuple[Any, int]:
        dataset = Folder(folder, v1.Compose([v1.Resize((24, 24)), *END]))
        compiled = compile_dataset(dataset, Settings(placement="mapped", cache_dir=tmp_path / "cache"))
        before = dataset.loads
        image = OrderedLoader(compiled, 20).batch(0, 0)[0]
        return image, dataset.loads - before

    first, _ = load()
    again, loads = load()
    assert torch.equal(first, again)
    assert loads == 0
    path = folder / "04.jpg"
    stat = path.stat()
    content = path.read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(255 - np.array(Image.open(path))).save(buffer, "JPEG", quality=90)
    path.write_bytes(buffer.getvalue()[: len(content)].ljust(len(content), b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    changed, _ = load()
    assert not torch.equal(first[4], changed[4])
    assert torch.equal(first[5], changed[5])
    dataset = Folder(folder, v1.Compose([v1.Resize((25, 24)), *END]))
    other = compile_dataset(dataset, Settings(placement="mapped", cache_dir=tmp_path / "cache"))
    assert OrderedLoader(other, 20).batch(0, 0)[0].shape[2:] == (25, 24)


def test_a_scaled_decoding_is_close_and_used_only_where_it_may_be(tmp_path: Path) -> None:
    for number, image in enumerate(pictures(6, 640, 800)):
        Image.fromarray(image).resize((800, 640)).save(tmp_path / f"{number}.jpg")
    dataset = Folder(tmp_path, v1.Compose([v1.RandomResizedCrop(32), v1.ToTensor()]))
    exact = OrderedLoader(compile_dataset(dataset, Settings(placement="none")), 6).batch(0, 0)[0]
    scaled = OrderedLoader(compile_dataset(dataset, Settings(decode="scaled")), 6).batch(0, 0)[0]
    assert not torch.equal(exact, scaled)
    assert (exact - scaled).abs().mean() < 3 / 255
    with pytest.raises(NotApplicable, match="JPEG files"):
        compile_dataset(Pictures(IMAGES, v1.Compose([v1.RandomResizedCrop(16), *END])), Settings(decode="scaled"))


RAISING: list[Callable[[Any], Any]] = [lambda image: 1 / 0, lambda image: image.no_such_method()]


@pytest.mark.parametrize("broken", RAISING)
def test_transforms_that_raise_give_one_error(broken: Any) -> None:
    dataset = Pictures(IMAGES, v1.Compose([broken, *END]))
    with pytest.raises((DataError, NotApplicable), match=r"ZeroDivisionError|AttributeError"):
        compile_dataset(dataset, Settings())
