"""What cannot be taken apart is said so in a sentence, and nothing of the user's is touched by the attempt."""

import copy
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset

from torchspeed.data.sources.read import read
from torchspeed.data.sources.source import Opaque
from torchspeed.errors import DataError

N = 30
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), np.uint8)


def floats(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image) / np.float32(255))


class Pictures(Dataset):  # type: ignore[type-arg]
    transform: Any = None

    def __init__(self, transform: Any = floats) -> None:
        self.images, self.transform = IMAGES, transform

    def __len__(self) -> int:
        return N

    def image(self, i: int) -> Image.Image:
        return Image.fromarray(self.images[i])

    def __getitem__(self, i: int) -> Any:
        return self.transform(self.image(i)), i % 3


class MovedBefore(Pictures):
    def image(self, i: int) -> Image.Image:
        return Image.fromarray(np.roll(self.images[i], random.randrange(8), axis=1))


class RarelyInvertedBefore(Pictures):
    def image(self, i: int) -> Image.Image:
        return Image.fromarray(self.images[i] if torch.rand(()) < 0.9999 else 255 - self.images[i])


class OwnGenerator(Pictures):
    generator = np.random.default_rng(0)

    def image(self, i: int) -> Image.Image:
        return Image.fromarray(np.roll(self.images[i], self.generator.integers(8), axis=0))


class RandomLabels(Pictures):
    generator = np.random.default_rng(0)

    def __getitem__(self, i: int) -> Any:
        return self.transform(self.image(i)), float(self.generator.random())


class TwoViews(Pictures):
    def __getitem__(self, i: int) -> Any:
        return self.transform(self.image(i)), self.transform(self.image(i))


class WorkedOnAfterwards(Pictures):
    def __getitem__(self, i: int) -> Any:
        return self.transform(self.image(i)) * 2, 0


class LookedAtAfterwards(Pictures):
    def __getitem__(self, i: int) -> Any:
        image = self.transform(self.image(i))
        return (image * 2 if isinstance(image, torch.Tensor) else image), 0


class ThrownAway(Pictures):
    def __getitem__(self, i: int) -> Any:
        self.transform(self.image(i))
        return 0


class WithTarget(Pictures):
    def __getitem__(self, i: int) -> Any:
        return self.transform(self.image(i), target=3)


class Cached(Pictures):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, dict[int, Any]] = {"samples": {}}

    def __getitem__(self, i: int) -> Any:
        if i not in self.cache["samples"]:
            self.cache["samples"][i] = super().__getitem__(i)
        return self.cache["samples"][i]


class Closing(Pictures):
    def __del__(self) -> None:
        pass


def with_own_generator(generator: np.random.Generator) -> Any:
    return lambda image: floats(image) + generator.random()


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        (MovedBefore(), r"^the image of sample \d+ differs from call to call before the transform$"),
        (RarelyInvertedBefore(), r"^sample 0 draws random numbers outside of its transform$"),
        (OwnGenerator(), r"^the image of sample 0 differs from call to call before the transform$"),
        (RandomLabels(), r"^what sample 0 holds beside its image differs from call to call$"),
        (TwoViews(), r"^sample 0 calls transform 2 times$"),
        (WorkedOnAfterwards(), r"^sample 0 is worked on after its transform \(.*test_opaque\.py:\d+\)$"),
        (LookedAtAfterwards(), r"^sample 0 is more than its transform applied to what the transform is given$"),
        (ThrownAway(), r"^what transform returns is not a part of sample 0 as it is$"),
        (
            WithTarget(lambda image, target: floats(image)),
            r"^transform is called with \(Image, target\), not with one image$",
        ),
        (Cached(), r"^sample 0 comes without a call of transform, as if it had been kept$"),
        (Closing(), r"^Closing has a __del__"),
        (Pictures(with_own_generator(np.random.default_rng(0))), r"though the generators are the same$"),
        (ConcatDataset([Pictures()]), "^the datasets in a ConcatDataset may differ in everything"),
        ([1, 2, 3], r"^sample 0 holds no PIL images or uint8 tensors \[C, H, W\], and list has no known transform$"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_more_than_a_transform_of_an_image_stays_as_it_is_written(dataset: Any, why: str) -> None:
    with pytest.raises(Opaque, match=why):
        read(dataset)


def test_streams_are_opaque() -> None:
    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(Opaque, match="not map-style"):
        read(Stream())


def test_reading_leaves_the_dataset_and_the_generators_alone() -> None:
    dataset = Cached()
    before = copy.deepcopy({name: value for name, value in vars(dataset).items() if name != "cache"})
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(()).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    with pytest.raises(Opaque):
        read(dataset)
    assert (random.random(), np.random.random(), torch.rand(()).item()) == expected
    assert {name: value for name, value in vars(dataset).items() if name != "cache"}.keys() == before.keys()
    assert dataset.transform is floats
    assert dataset.images is IMAGES
    assert all(isinstance(image, torch.Tensor) for image, _ in dataset.cache["samples"].values())


def test_a_sample_that_raises_by_itself_is_named_with_its_place() -> None:
    class Torn(Pictures):
        def image(self, i: int) -> Image.Image:
            if i == N - 1:
                raise OSError("torn")
            return super().image(i)

    with pytest.raises(DataError, match=rf"^sample {N - 1} raised OSError: torn \({Path(__file__)}:\d+\)$"):
        read(Torn())


def test_a_sample_that_raises_later_is_named_with_its_place() -> None:
    class Torn(Pictures):
        torn = -1

        def image(self, i: int) -> Image.Image:
            if i == self.torn:
                raise OSError("torn")
            return Image.fromarray(self.images[i] // 2)

    dataset = Torn()
    source = read(dataset)
    Torn.torn = 12
    for give in (source.raw, source.image):
        with pytest.raises(DataError, match=rf"^sample 12 raised OSError: torn \({Path(__file__)}:\d+\)$"):
            give(12)
    assert source.image(13).shape == (8, 8, 3)


def test_a_sample_that_is_treated_in_another_way_is_named() -> None:
    class Moody(Pictures):
        mood = -1

        def __getitem__(self, i: int) -> Any:
            return super().__getitem__(i) if i != self.mood else (floats(self.image(i)), 0)

    source = read(Moody())
    Moody.mood = 12
    with pytest.raises(DataError, match=r"^sample 12 comes without a call of transform.*unlike the samples"):
        source.raw(12)


def test_an_empty_dataset_is_an_error_of_its_data() -> None:
    class Empty(Pictures):
        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match=r"^Empty: the data are empty"):
        read(Empty())


def test_the_users_code_runs_in_one_thread_at_a_time() -> None:
    class Alone(Pictures):
        inside = 0

        def image(self, i: int) -> Image.Image:
            self.inside += 1
            time.sleep(1e-4)
            assert self.inside == 1
            image = Image.fromarray(np.rot90(self.images[i]).copy())
            self.inside -= 1
            return image

    source = read(Alone())
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(source.image, range(N)))
    assert all(np.array_equal(image, np.rot90(IMAGES[i])) for i, image in enumerate(images))


def test_a_process_that_is_forked_meanwhile_does_not_wait() -> None:
    class Slow(Pictures):
        entered, go_on = threading.Event(), threading.Event()

        def image(self, i: int) -> Image.Image:
            if i == 12 and os.getpid() == parent:
                self.entered.set()
                self.go_on.wait(30)
            return Image.fromarray(np.rot90(self.images[i]).copy())

    parent = 0
    source = read(Slow())
    parent = os.getpid()
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(source.image, 12)
        assert Slow.entered.wait(30)
        child = multiprocessing.get_context("fork").Process(target=source.image, args=(12,))
        child.start()
        child.join(30)
        Slow.go_on.set()
        busy.result()
    exit_code = child.exitcode
    child.kill()
    assert exit_code == 0
