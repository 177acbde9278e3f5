"""Columns of encoded images, as parquet files and as Hugging Face datasets."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import Subset

from torchspeed.data.sources.image_columns import ParquetImages, hugging_face
from torchspeed.data.sources.read import read
from torchspeed.data.sources.source import Hole, Opaque
from torchspeed.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


def floats(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image) / np.float32(255))


def write(path: Path, images: list[bytes | None], labels: list[int]) -> Path:
    records = pa.array(
        [{"bytes": data, "path": None} for data in images], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    parquet.write_table(pa.table({"img": records, "label": labels}), path, row_group_size=7)
    return path


@pytest.fixture
def files(tmp_path: Path, picture: Callable[..., Any], encode: Callable[..., bytes]) -> list[Path]:
    encoded = [encode(picture(i, 20 + i), ("JPEG", "PNG")[i % 2]) for i in range(30)]
    return [
        write(tmp_path / "a.parquet", encoded[:17], list(range(17))),  # type: ignore[arg-type]
        write(tmp_path / "b.parquet", encoded[17:], list(range(17, 30))),  # type: ignore[arg-type]
    ]


def test_parquet_files_are_read_as_encoded_images(
    files: list[Path], picture: Callable[..., Any], encode: Callable[..., bytes]
) -> None:
    dataset = ParquetImages(files, "img", "label", floats)
    source = read(dataset)
    assert (len(source), source.kind, source.mode) == (30, "image column", "RGB")
    assert source.encoded is not None
    for i in range(30):
        assert source.encoded(i) == encode(picture(i, 20 + i), ("JPEG", "PNG")[i % 2])
        assert source.rest(i) == (Hole(), i)
        np.testing.assert_array_equal(source.image(i), np.asarray(source.raw(i)[0]))
    image, label = dataset[4]
    assert torch.equal(image, floats(source.image(4)))
    assert label == 4


def test_the_column_is_known_by_its_content(files: list[Path], tmp_path: Path) -> None:
    before = read(ParquetImages(files, "img")).identity()
    files[0].rename(tmp_path / "c.parquet")
    assert read(ParquetImages([tmp_path / "c.parquet", files[1]], "img")).identity() == before is not None
    assert read(ParquetImages([files[1], tmp_path / "c.parquet"], "img")).identity() != before


def test_images_of_columns_stand_upright(tmp_path: Path, picture: Callable[..., Any], encode: Any) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    encoded = [encode(picture(i), exif=turned) if i % 3 == 0 else encode(picture(i)) for i in range(30)]
    source = read(ParquetImages(write(tmp_path / "a.parquet", encoded, [0] * 30), "img", transform=floats))
    assert source.kinds == {("RGB", False)}
    for i in (0, 1):
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded[i])))
        np.testing.assert_array_equal(source.image(i), np.asarray(expected))


def test_a_row_without_bytes_is_named_and_nobody_can_tell_whether_it_changed(
    tmp_path: Path, picture: Callable[..., Any], encode: Callable[..., bytes]
) -> None:
    encoded: list[bytes | None] = [encode(picture(i)) for i in range(40)]
    whole = read(ParquetImages(write(tmp_path / "a.parquet", encoded, [0] * 40), "img", transform=floats))
    assert whole.identity() is not None
    encoded[21] = None
    source = read(ParquetImages(write(tmp_path / "b.parquet", encoded, [0] * 40), "img", transform=floats))
    assert source.identity() is None
    assert source.image(22).shape == (32, 40, 3)
    with pytest.raises(DataError, match=r"^sample 21: column images holds no bytes for it"):
        source.image(21)


def test_what_is_no_such_file_is_named(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: no columns 'image' and 'label'; it has img, label"):
        ParquetImages(files)
    (tmp_path / "torn.parquet").write_bytes(files[0].read_bytes()[:-9])
    with pytest.raises(DataError, match=r"torn\.parquet: cannot be read as parquet"):
        ParquetImages([*files, tmp_path / "torn.parquet"], "img")
    with pytest.raises(DataError, match="no file is given"):
        ParquetImages([])


def test_the_images_of_cifar10_are_read_as_encoded(shared: Path) -> None:
    (path,) = (shared / "cifar10").glob("test-*.parquet")
    dataset = ParquetImages(path, "img", "label", floats)
    source = read(Subset(dataset, range(100, 400)))
    assert (source.kind, source.kinds) == ("JPEG column", {("RGB", False)})
    for i in range(0, 300, 7):
        raw, rest = source.raw(i)
        np.testing.assert_array_equal(source.image(i), np.asarray(raw))
        assert source.rest(i) == rest == (Hole(), dataset.labels[100 + i])


def test_a_dataset_of_hugging_face_is_read_as_encoded(files: list[Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets of Hugging Face is not installed")
    loaded = datasets.load_dataset(
        "parquet", data_files=list(map(str, files)), split="train", cache_dir=str(tmp_path / "cache")
    ).cast_column("img", datasets.Image())
    shuffled = loaded.shuffle(seed=0).select(range(20))
    source = read(hugging_face(shuffled, "img", "label", floats))
    assert source.encoded is not None
    for i in range(20):
        assert source.rest(i) == (Hole(), shuffled[i]["label"])
        np.testing.assert_array_equal(source.image(i), np.asarray(shuffled[i]["img"]))
    other = loaded.shuffle(seed=1).select(range(20))
    assert source.identity() != read(hugging_face(other, "img", "label", floats)).identity() is not None
    with pytest.raises(Opaque, match=r"hugging_face\(\) takes a transform of images"):
        read(loaded.with_transform(lambda rows: rows))
    with pytest.raises(DataError, match=r"^the dataset has no column 'image'; its columns are img, label"):
        hugging_face(loaded)


def test_a_folder_as_hugging_face_reads_it(
    tmp_path: Path, picture: Callable[..., Any], encode: Callable[..., bytes]
) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets of Hugging Face is not installed")
    for i in range(20):
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / str(i % 2) / f"{i:02}.jpg").write_bytes(encode(picture(i)))
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "images"), split="train", cache_dir=str(tmp_path / "cache")
    )
    source = read(hugging_face(loaded, transform=floats))
    assert source.encoded is not None
    assert source.kind == "JPEG files"
    np.testing.assert_array_equal(source.image(3), np.asarray(loaded[3]["image"]))
    before = source.identity()
    path = tmp_path / "images" / "1" / "07.jpg"
    path.write_bytes(path.read_bytes()[:-3] + b"\0" + path.read_bytes()[-2:])
    assert source.identity() != before


def test_what_is_no_hugging_face_dataset_is_refused() -> None:
    with pytest.raises(DataError, match=r"list is no datasets\.Dataset"):
        hugging_face([1, 2])
