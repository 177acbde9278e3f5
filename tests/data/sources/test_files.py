"""Encoded files stand for what the user's code loads only where it was seen to be the same, and are known again."""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset, Subset

from torchspeed.data.sources import identity
from torchspeed.data.sources.read import read
from torchspeed.errors import DataError

N = 40
TURNED = Image.Exif()
TURNED[0x0112] = 6
ODD = 21  # a sample that is not looked at while reading, unless it is among those compared for a while


def floats(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image) / np.float32(255))


class Folder(Dataset):  # type: ignore[type-arg]
    def __init__(self, folder: Path, load: Callable[[Path], Any]) -> None:
        self.paths, self.load, self.transform = sorted(folder.glob("*")), load, floats

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        return self.transform(self.load(self.paths[i])), i % 2


def upright(path: Path) -> Any:
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def as_it_lies(path: Path) -> Any:
    return Image.open(path).convert("RGB")


def in_its_own_mode(path: Path) -> Any:
    return Image.open(path)


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., Any], encode: Callable[..., bytes]) -> Path:
    for i in range(N):
        (tmp_path / f"{i:02}.jpg").write_bytes(encode(picture(i, 32, 24)))
    return tmp_path


@pytest.fixture
def no_file_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files had been written long ago."""
    monkeypatch.setattr(identity, "_TICK_SECONDS", 0.0)


def test_the_odd_sample_is_not_looked_at(folder: Path) -> None:
    """What the tests below rely on."""
    seen = set()

    def load(path: Path) -> Any:
        seen.add(path.name)
        return as_it_lies(path)

    source = read(Folder(folder, load), seconds=0.0)
    assert source.encoded is not None
    assert f"{ODD}.jpg" not in seen


@pytest.mark.parametrize("load", [upright, as_it_lies])
def test_an_image_of_a_kind_that_was_not_seen_is_read_by_the_users_code(
    folder: Path, picture: Callable[..., Any], encode: Callable[..., bytes], load: Callable[[Path], Any]
) -> None:
    (folder / f"{ODD}.jpg").write_bytes(encode(picture(ODD, 32, 24), exif=TURNED))
    source = read(Folder(folder, load), seconds=0.0)
    assert source.kinds == {("RGB", False)}
    np.testing.assert_array_equal(source.image(ODD), np.asarray(load(folder / f"{ODD}.jpg")))


def test_a_kind_that_was_seen_to_be_treated_in_another_way_is_left_out(
    folder: Path, picture: Callable[..., Any], encode: Callable[..., bytes]
) -> None:
    for i in range(0, N, 2):
        (folder / f"{i:02}.jpg").write_bytes(encode(picture(i, 32, 24), exif=TURNED))
    assert read(Folder(folder, as_it_lies)).kinds == {("RGB", False), ("RGB", True)}
    source = read(Folder(folder, upright))
    assert source.kinds == {("RGB", False)}
    for i in range(N):
        np.testing.assert_array_equal(source.image(i), np.asarray(upright(folder / f"{i:02}.jpg")))


def test_one_image_that_does_not_differ_proves_nothing_for_its_kind(
    folder: Path, picture: Callable[..., Any], encode: Callable[..., bytes]
) -> None:
    """A black square is the same upright and lying."""
    for i in range(0, N, 2):
        image = picture(i, 32, 24) if i else np.zeros((8, 8, 3), np.uint8)
        (folder / f"{i:02}.jpg").write_bytes(encode(image, exif=TURNED))
    assert read(Folder(folder, upright)).kinds == {("RGB", False)}


def test_a_grey_image_among_colours_is_an_error_where_the_users_code_leaves_it_grey(
    folder: Path, picture: Callable[..., Any], encode: Callable[..., bytes]
) -> None:
    (folder / f"{ODD}.jpg").write_bytes(encode(picture(ODD, 32, 24, grey=True)))
    assert read(Folder(folder, as_it_lies)).image(ODD).shape == (32, 24, 3)
    with pytest.raises(DataError, match=rf"^sample {ODD}: an image of L where the others are RGB"):
        read(Folder(folder, in_its_own_mode), seconds=0.0).image(ODD)
    assert read(Folder(folder, in_its_own_mode)).mode is None, "where it is looked at, there is no mode in common"


def test_images_of_several_modes_have_none_in_common(
    folder: Path, picture: Callable[..., Any], encode: Callable[..., bytes]
) -> None:
    for i in range(0, N, 2):
        (folder / f"{i:02}.jpg").write_bytes(encode(picture(i, 32, 24, grey=True)))
    source = read(Folder(folder, in_its_own_mode))
    assert (source.mode, source.encoded) == (None, None)
    assert source.raw(0)[0].mode == "L"


def test_a_file_of_another_format_is_read_by_the_users_code(folder: Path, picture: Callable[..., Any]) -> None:
    Image.fromarray(picture(ODD)).save(folder / f"{ODD}.jpg", "BMP")
    np.testing.assert_array_equal(read(Folder(folder, as_it_lies), seconds=0.0).image(ODD), picture(ODD))


def test_a_torn_file_is_named_with_its_sample(folder: Path) -> None:
    source = read(Folder(folder, as_it_lies))
    path = folder / f"{ODD}.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=rf"^sample {ODD} \({path}\): cannot be decoded"):
        source.image(ODD)
    path.unlink()
    with pytest.raises(DataError, match=str(path)):
        source.image(ODD)


def test_cropped_images_are_not_taken_for_their_files(folder: Path) -> None:
    source = read(Folder(folder, lambda path: as_it_lies(path).crop((0, 0, 20, 20))))
    assert (source.encoded, source.identity()) == (None, None)
    assert source.image(3).shape == (20, 20, 3)


def test_files_that_did_not_change_keep_their_identity(folder: Path, no_file_is_young: None) -> None:
    dataset = Folder(folder, as_it_lies)
    assert read(dataset).identity() == read(Folder(folder, as_it_lies)).identity() is not None
    assert read(Subset(dataset, range(10))).identity() != read(Subset(dataset, range(1, 11))).identity()


def changed_in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def replaced_by_another(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("change", [changed_in_place, replaced_by_another])
def test_a_change_is_seen_though_size_and_time_are_set_back(
    folder: Path, no_file_is_young: None, change: Callable[[Path, bytes], None]
) -> None:
    source = read(Folder(folder, as_it_lies))
    before, path = source.identity(), folder / f"{ODD}.jpg"
    old, entry = path.read_bytes(), path.stat()
    time.sleep(0.02)  # more than a tick of the file system's clock
    change(path, old[:-3] + b"\0" + old[-2:])
    os.utime(path, ns=(entry.st_atime_ns, entry.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (entry.st_size, entry.st_mtime_ns)
    assert source.identity() != before


def test_a_change_within_one_tick_of_the_clock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole entry of the file is the same, as where the clock of the file system did not move in between."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old")
    entry = os.stat(path)
    before = identity.files_identity([str(path)])
    path.write_bytes(b"new")
    monkeypatch.setattr(identity, "os", SimpleNamespace(stat=lambda _: entry))
    assert identity.files_identity([str(path)]) != before
    monkeypatch.setattr(identity, "_TICK_SECONDS", 0.0)
    blind = identity.files_identity([str(path)])
    path.write_bytes(b"old")
    assert identity.files_identity([str(path)]) == blind, "without the look at young files nothing is seen"


def test_order_and_names_belong_to_the_identity(folder: Path, no_file_is_young: None) -> None:
    paths = sorted(map(str, folder.iterdir()))
    assert identity.files_identity(paths) != identity.files_identity(paths[::-1])
    assert identity.files_identity(paths) != identity.files_identity(paths[1:])
    with pytest.raises(DataError, match="gone"):
        identity.files_identity([str(folder / "gone")])


def test_arrays_are_known_by_their_content(torchvision: Any) -> None:
    class Pictures(Dataset):  # type: ignore[type-arg]
        def __init__(self, images: np.ndarray, transform: Any = floats) -> None:
            self.images, self.transform = images, transform

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, i: int) -> Any:
            return self.transform(Image.fromarray(self.images[i]))

    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), np.uint8)
    before = read(Pictures(images)).identity()
    assert read(Pictures(images.copy(), transform=torchvision.transforms.ToTensor())).identity() == before
    assert read(Pictures(np.asfortranarray(images))).identity() == before
    assert read(Subset(Pictures(images), [0, 1, 2])).identity() != read(Subset(Pictures(images), [0, 1, 3])).identity()
    changed = images.copy()
    changed[ODD, 3, 3, 0] ^= 1
    assert read(Pictures(changed)).identity() != before


MODULE = """
from pathlib import Path
import numpy as np, torch
from PIL import Image
from torch.utils.data import Dataset
from torchspeed.data.sources import identity, read

class Folder(Dataset):
    def __init__(self, folder):
        self.paths, self.transform = sorted(Path(folder).glob("*.jpg")), lambda image: torch.from_numpy(np.array(image))
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, i):
        return self.transform(Image.open(self.paths[i]).convert("RGB"))

def identify(folder):
    identity._TICK_SECONDS = 0.0
    return read.read(Folder(folder)).identity()
"""


def test_another_process_finds_the_same_identity(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, no_file_is_young: None
) -> None:
    place = tmp_path_factory.mktemp("module")
    (place / "folder_of_two_processes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(place)
    here = importlib.import_module("folder_of_two_processes").identify(folder)
    code = "import sys, folder_of_two_processes as module; print(module.identify(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(folder)]
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=place).stdout.strip()
    assert here is not None
    assert there == here
