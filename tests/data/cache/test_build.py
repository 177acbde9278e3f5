"""What is built comes back as it was, from NumPy too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cached import KEY, Build, filled, folders, never, opened, value_of
from torchspeed.data.cache import RaggedImages, RaggedWriter, Writer, open_or_build
from torchspeed.errors import DataError


def test_what_was_built_comes_back_read_only_and_numpy_opens_it(root: Path, entry: Path) -> None:
    cache = opened(root)
    assert not cache.built
    assert value_of(cache) == 1
    assert cache.notes == ()
    assert cache.checked_bytes == cache.total_bytes == sum(path.stat().st_size for path in entry.glob("*.npy"))
    mapped = np.load(entry / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped, cache.arrays["images"], strict=True)
    assert cache.arrays["images"].ctypes.data % 4096 == 0
    with pytest.raises(ValueError, match="read-only"):
        cache.arrays["images"][0] = 0
    assert {path.stat().st_mode & 0o222 for path in entry.glob("*.npy")} == {0}


@pytest.mark.parametrize("dtype", ["?", "u1", "<i2", ">i4", "<i8", "<f2", "<f4", "<f8", "<c8"])
def test_arrays_of_plain_numbers_survive(root: Path, dtype: str) -> None:
    values = [np.arange(np.prod(s, dtype=int)).reshape(s).astype(dtype) for s in [(), (0, 3), (5,), (2, 3, 4)]]

    def build(writer: Writer) -> None:
        for i, array in enumerate(values):
            writer.array(f"fixed{i}", dtype, array.shape)[...] = array
            if array.shape:
                rows = writer.rows(f"rows{i}", dtype, array.shape[1:])
                for row in range(len(array)):
                    rows.append(array[row : row + 1])

    cache = opened(root, build)
    assert len(cache.arrays) == 7
    for name, array in cache.arrays.items():
        np.testing.assert_array_equal(array, values[int(name[-1])], strict=True)
        np.testing.assert_array_equal(np.load(cache.path / f"{name}.npy"), array, strict=True)


def test_images_of_different_sizes_lie_in_one_buffer(root: Path) -> None:
    random_ = np.random.default_rng(0)
    images = [random_.integers(0, 256, (h, w, c), np.uint8) for h, w, c in [(3, 5, 3), (1, 1, 1), (0, 4, 3), (7, 2, 4)]]

    def build(writer: Writer) -> None:
        ragged = RaggedWriter(writer, "photos")
        for image in images:
            ragged.append(image)
        ragged.close()

    arrays = opened(root, build).arrays
    found = RaggedImages(arrays, "photos")
    for image, expected in zip(found, images, strict=True):
        np.testing.assert_array_equal(image, expected, strict=True)
    for name, index, value in [("photos.offsets", 1, 10**9), ("photos.sizes", (0, 0), -3), ("photos.sizes", (1, 2), 9)]:
        damaged = {**arrays, name: arrays[name].copy()}
        damaged[name][index] = value
        with pytest.raises(DataError, match="do not fit together"):
            RaggedImages(damaged, "photos")


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda writer: writer.array("a", object, (1,)), "not plain numbers"),
        (lambda writer: writer.array("a", "i4,i4", (1,)), "not plain numbers"),
        (lambda writer: writer.array("a", "u1", (-1,)), "not a shape"),
        (lambda writer: writer.array("../a", "u1", (1,)), "cannot name an array"),
        (lambda writer: [writer.array("a", "u1", (1,)) for _ in "12"], "made already"),
        (lambda writer: writer.rows("a", "u1", (2,)).append(np.zeros((1, 3), "u1")), r"found uint8 \[1, 3\]"),
        (lambda writer: writer.rows("a", "u1").append(np.zeros(3)), r"found float64 \[3\]"),
    ],
)
def test_a_misused_writer_says_so_and_leaves_nothing(root: Path, misuse: Build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(root, misuse)
    assert folders(root) == []
    with pytest.raises(ValueError, match="hexadecimal"):
        open_or_build(root, "photos", "../../etc", never)


@pytest.mark.parametrize("error", [ValueError("bad"), FileNotFoundError("a.jpg"), MemoryError()], ids=repr)
def test_what_a_build_raises_passes_on_and_nothing_is_left(root: Path, error: Exception) -> None:
    def fails(writer: Writer) -> None:
        filled(1)(writer)
        raise error

    with pytest.raises(type(error)) as caught:
        opened(root, fails)
    assert caught.value is error
    assert folders(root) == []
    assert opened(root, filled(1), wait_seconds=0).built, "the lock is free"


def test_a_build_may_use_another_entry_and_its_arrays_are_closed_to_it_afterwards(root: Path) -> None:
    kept: list[Any] = []

    def build(writer: Writer) -> None:
        images = writer.array("images", np.uint8, (2,))
        images[:] = open_or_build(root, "raw", KEY, filled(7)).arrays["images"].ravel()[:2]
        kept.append(images)

    assert opened(root, build).arrays["images"].tolist() == [7, 7]
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0] = 1
