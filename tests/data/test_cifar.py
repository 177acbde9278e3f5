"""CIFAR-10 is read alike from every form it comes in, and whatever is wrong is named."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from torchspeed.data.cifar import read_cifar10
from torchspeed.data.tar_members import read_tar_members
from torchspeed.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

PER_FILE = 4
NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6 * PER_FILE, 32, 32, 3), np.uint8)
LABELS = RANDOM.integers(0, 10, 6 * PER_FILE)


def planes() -> np.ndarray:
    return np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)).reshape(len(IMAGES), -1)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def binary_files() -> dict[str, bytes]:
    records = np.concatenate([LABELS[:, None].astype(np.uint8), planes()], axis=1)
    parts = records.reshape(6, -1)
    return {f"{name}.bin": part.tobytes() for name, part in zip(NAMES, parts, strict=True)}


def python_files() -> dict[str, bytes]:
    parts = zip(NAMES, planes().reshape(6, PER_FILE, -1), LABELS.reshape(6, -1), strict=True)
    return {name: pickle.dumps({b"data": data, b"labels": labels.tolist()}, 4) for name, data, labels in parts}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def write_tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for member in extra:
            tar.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_parquet(path: Path, images: list[Any], labels: list[Any]) -> None:
    rows = [
        {"img": {"bytes": image, "path": None}, "label": label} for image, label in zip(images, labels, strict=True)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), path)


def parquet_folder(folder: Path) -> None:
    encoded, split = [png(image) for image in IMAGES], 5 * PER_FILE
    write_parquet(folder / "train-00000-of-00002.parquet", encoded[:7], LABELS[:7].tolist())
    write_parquet(folder / "train-00001-of-00002.parquet", encoded[7:split], LABELS[7:split].tolist())
    write_parquet(folder / "test-00000-of-00001.parquet", encoded[split:], LABELS[split:].tolist())


def tar_of(name: str, folder: str, files: Callable[[], dict[str, bytes]]) -> Callable[[Path], None]:
    return lambda path: write_tar(path / name, {f"{folder}/{n}": data for n, data in files().items()})


FORMS: dict[str, Callable[[Path], None]] = {
    "parquet": parquet_folder,
    "binary": lambda path: write_files(path, binary_files()),
    "binary in its folder": lambda path: write_files(path / "cifar-10-batches-bin", binary_files()),
    "binary .tar.gz": tar_of("cifar-10-binary.tar.gz", "cifar-10-batches-bin", binary_files),
    "python": lambda path: write_files(path, python_files()),
    "python in its folder": lambda path: write_files(path / "cifar-10-batches-py", python_files()),
    "python .tar.gz": tar_of("cifar-10-python.tar.gz", "cifar-10-batches-py", python_files),
}


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_pixels_and_labels(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    train, test = read_cifar10(tmp_path)
    split = 5 * PER_FILE
    for read, images, labels in (
        (train, IMAGES[:split], LABELS[:split]),
        (test, IMAGES[split:], LABELS[split:]),
    ):
        assert torch.equal(read.images, torch.from_numpy(images))
        assert torch.equal(read.labels, torch.from_numpy(labels))
        assert read.images.is_contiguous()
    assert sorted(tmp_path.rglob("*")) == before, "reading writes nothing"


def image_folder(folder: Path, side: int = 20) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(IMAGES[2 * label + i, :side, :, :]).save(folder / split / name / f"{i}.png")


def test_an_image_folder_may_have_other_classes_and_another_size(tmp_path: Path) -> None:
    image_folder(tmp_path)
    train, test = read_cifar10(tmp_path)
    assert torch.equal(train.images, torch.from_numpy(IMAGES[:4, :20]))
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1]


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    image_folder(tmp_path)
    Image.fromarray(IMAGES[0]).save(tmp_path / "test" / "dog" / "1.png")
    with pytest.raises(DataError, match=r"test/dog/1\.png: an image of 32×32 pixels where all are 32×20"):
        read_cifar10(tmp_path)


def test_a_class_that_only_the_test_set_has_is_named(tmp_path: Path) -> None:
    image_folder(tmp_path)
    os.rename(tmp_path / "train" / "dog", tmp_path / "train" / "horse")
    with pytest.raises(DataError, match=r"test: class 'dog' is not in .*train: cat, horse"):
        read_cifar10(tmp_path)


def test_a_folder_without_cifar10_says_what_was_looked_for(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"looked for train\*\.parquet.*data_batch_1\.bin.*train/<class>/"):
            read_cifar10(folder)


@pytest.mark.parametrize("cut", [1, 3073, 4 * 3073])
def test_a_binary_file_cut_short_is_named_even_between_two_records(cut: int, tmp_path: Path) -> None:
    files = binary_files()
    files["data_batch_3.bin"] = files["data_batch_3.bin"][:-cut]
    write_files(tmp_path, files)
    with pytest.raises(DataError, match=r"data_batch_3\.bin: .*get it again"):
        read_cifar10(tmp_path)


def test_a_missing_file_of_an_archive_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, binary_files())
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch\.bin: cannot be read \(No such file"):
        read_cifar10(tmp_path)


def test_a_label_out_of_range_is_named_with_its_record(tmp_path: Path) -> None:
    files = binary_files()
    damaged = bytearray(files["data_batch_2.bin"])
    damaged[2 * 3073] = 10
    write_files(tmp_path, files | {"data_batch_2.bin": bytes(damaged)})
    with pytest.raises(
        DataError, match=r"data_batch_2\.bin, record 2: label 10, where a class is a number from 0 to 9"
    ):
        read_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ({b"data": np.zeros((2, 3072), np.uint8)}, "b'labels' is not a list of 2 labels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "b'labels' is not a list of 2 labels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, "x"]}, "record 1: a label of type str"),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2**70]},
            "record 1: label 1180591620717411303424, where",
        ),
        ({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]}, "b'data' is not an array of bytes"),
        ({b"data": np.zeros(3072, np.uint8), b"labels": [1]}, "b'data' is not an array of bytes"),
    ],
)
def test_a_python_batch_of_another_content_is_named(content: dict[bytes, Any], finding: str, tmp_path: Path) -> None:
    write_files(tmp_path, python_files() | {"data_batch_1": pickle.dumps(content, 4)})
    with pytest.raises(DataError, match=rf"data_batch_1[:,] {finding}"):
        read_cifar10(tmp_path)


class Touch:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def test_a_malicious_python_batch_is_refused_and_does_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, python_files() | {"data_batch_1": pickle.dumps({b"data": Touch(tmp_path / "canary")}, 2)})
    with pytest.raises(DataError, match="data_batch_1: refused"):
        read_cifar10(tmp_path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda data: data[:-30], "cannot be decoded"),
        (lambda data: b"hello", "cannot be decoded"),
        (lambda data: None, "without image bytes"),
        (lambda data: png(IMAGES[0, :16]), "an image of 32×16 pixels where all are 32×32"),
    ],
    ids=["cut", "text", "nothing", "size"],
)
def test_an_unreadable_image_in_parquet_is_named_with_its_record(
    damage: Callable[[bytes], bytes | None], finding: str, tmp_path: Path
) -> None:
    encoded = [png(image) for image in IMAGES]
    write_parquet(tmp_path / "train.parquet", [*encoded[:5], damage(encoded[5])], [0] * 6)
    with pytest.raises(DataError, match=rf"train\.parquet, record 5: {finding}"):
        read_cifar10(tmp_path)


def test_parquet_of_other_columns_cut_short_or_without_test_set_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_parquet(path, [png(IMAGES[0])], [3])
    with pytest.raises(DataError, match=r"no test\*\.parquet"):
        read_cifar10(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read as parquet"):
        read_cifar10(tmp_path)
    parquet.write_table(pa.table({"pixels": [1]}), path)
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read as parquet with the columns img"):
        read_cifar10(tmp_path)


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("member", "finding"),
    [
        (link("data", tarfile.SYMTYPE), "a link or a device"),
        (link("data", tarfile.LNKTYPE), "a link or a device"),
        (link("other", tarfile.FIFOTYPE), "a link or a device"),
        (tarfile.TarInfo("../data"), "outside the archive"),
        (tarfile.TarInfo("/data"), "outside the archive"),
    ],
)
def test_a_tar_with_a_link_or_a_path_that_leaves_it_is_refused(
    member: tarfile.TarInfo, finding: str, tmp_path: Path
) -> None:
    write_tar(tmp_path / "a.tar.gz", {"data": b"x"}, member)
    with pytest.raises(DataError, match=rf"a\.tar\.gz: refused, its member .*{finding}"):
        read_tar_members(tmp_path / "a.tar.gz", {"data"}, 1 << 20)


@pytest.mark.parametrize("name", ["data", "other"])
def test_a_tar_that_holds_too_much_is_refused_before_it_fills_memory(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar.gz", {name: bytes(3 << 20)})
    with pytest.raises(DataError, match=r"a\.tar\.gz: refused, it holds more than 1,048,576 bytes"):
        read_tar_members(tmp_path / "a.tar.gz", {"data"}, 1 << 20)


def test_a_tar_that_is_torn_damaged_or_without_a_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    write_tar(path, {"data": RANDOM.bytes(9000)})
    whole = path.read_bytes()
    assert len(read_tar_members(path, {"data"}, 1 << 20)["data"]) == 9000
    with pytest.raises(DataError, match=r"a\.tar\.gz: without labels"):
        read_tar_members(path, {"data", "labels"}, 1 << 20)
    for data in (whole[:4000], whole[:5], b"", b"hello", whole[:4000] + b"\0" * 50 + whole[4050:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.tar\.gz: "):
            read_tar_members(path, {"data"}, 1 << 20)


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")
def test_the_real_test_images_are_read_from_parquet(tmp_path: Path) -> None:
    (tmp_path / "test.parquet").symlink_to(SHARED / "test-00000-of-00001.parquet")
    (tmp_path / "train.parquet").symlink_to(SHARED / "test-00000-of-00001.parquet")
    train, test = read_cifar10(tmp_path)
    assert torch.equal(train.images, test.images)
    assert test.images.shape == (10_000, 32, 32, 3)
    assert test.labels.bincount().tolist() == [1000] * 10
    mean = test.images[::7].double().mean((0, 1, 2)) / 255
    assert torch.allclose(mean, torch.tensor([0.494, 0.485, 0.450], dtype=torch.float64), atol=0.01)
