"""CIFAR-10 in every form that people have it in, as two tensors of bytes.

The 60 000 images of 32×32 pixels (Krizhevsky, "Learning multiple layers of features from tiny images", 2009) come
as the binary archive (records of 1 label byte and 3 × 1024 bytes, one colour plane after the other), as the python
archive (the same planes in pickles), as parquet files of encoded images from the Hugging Face hub, or unpacked into
folders of image files. Page of the two archives: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchspeed.data.image_files import LabelledImages, decode_images, read_image_folder
from torchspeed.data.safe_pickle import read_pickled_arrays
from torchspeed.data.tar_members import read_tar_members
from torchspeed.errors import DataError, MissingPackage

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32

_PLANES = 3 * SIDE * SIDE
_MAX_FILE_BYTES = 64 << 20  # a file of 10 000 images is 31 MB in either archive
_MAX_ARCHIVE_BYTES = 512 << 20  # and an archive 184 MB


def read_cifar10(folder: str | Path) -> tuple[LabelledImages, LabelledImages]:
    """(train, test) of CIFAR-10: images uint8 [N, 32, 32, 3], labels int64 [N].

    ``folder`` holds ``train*.parquet`` and ``test*.parquet``; or the files of the binary or the python archive, the
    folder ``cifar-10-batches-bin`` or ``-py`` with them, or the ``.tar.gz``; or ``train/<class>/*.png|jpg`` and
    ``test/<class>/…`` (any classes and any one image size). Raises ``DataError`` naming file and record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_LOOKED_FOR}")
    if any(folder.glob("train*.parquet")):
        return _read_parquet(folder, "train"), _read_parquet(folder, "test")
    for archive in _ARCHIVES:
        for place in (folder, folder / archive.folder):
            if any((place / name).exists() for name in archive.names):
                return archive.join({name: _read_file(place / name) for name in archive.names}, place)
        if (folder / archive.tar).exists():
            members = {f"{archive.folder}/{name}": name for name in archive.names}
            found = read_tar_members(folder / archive.tar, members, _MAX_ARCHIVE_BYTES)
            return archive.join({members[member]: data for member, data in found.items()}, folder / archive.tar)
    if (folder / "train").is_dir():
        return read_image_folder(folder)
    raise DataError(f"{folder}: no CIFAR-10 in this folder; {_LOOKED_FOR}")


Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]  # planes [N, 3072], labels [N]


def _parse_binary(data: bytes, where: str) -> Batch:
    record = 1 + _PLANES
    if not data or len(data) % record:
        raise DataError(
            f"{where}: {len(data):,} bytes are not a whole number of records of {record:,}; it is torn, get it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, 1:], _checked_labels(records[:, 0].tolist(), where)


def _parse_python(data: bytes, where: str) -> Batch:
    batch = read_pickled_arrays(data, where)
    planes, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape[1:] != (_PLANES,):
        raise DataError(f"{where}: b'data' is not an array of bytes [N, {_PLANES}]; get the file again")
    if not isinstance(labels, list) or len(labels) != len(planes) or not labels:
        raise DataError(f"{where}: b'labels' is not a list of {len(planes)} labels, one per image; get the file again")
    return planes, _checked_labels(labels, where)


@dataclass(frozen=True)
class _Archive:
    """One of the two archives of the CIFAR-10 page: its names, and how one of its files is read."""

    folder: str
    tar: str
    suffix: str
    parse: Callable[[bytes, str], Batch]

    @property
    def train_names(self) -> tuple[str, ...]:
        return tuple(f"data_batch_{i}{self.suffix}" for i in range(1, 6))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.train_names, f"test_batch{self.suffix}")

    def join(self, files: dict[str, bytes], place: Path) -> tuple[LabelledImages, LabelledImages]:
        batches = {name: self.parse(files[name], str(place / name)) for name in self.names}
        counts = {name: len(batches[name][1]) for name in self.train_names}
        fullest = max(counts.values())
        for name, count in counts.items():
            if count < fullest:  # torn between two records, which no file shows by itself
                raise DataError(f"{place / name}: {count:,} images where another holds {fullest:,}; get it again")
        train = [batches[name] for name in self.train_names]
        return _labelled(train), _labelled([batches[self.names[-1]]])


_ARCHIVES = (
    _Archive("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _parse_binary),
    _Archive("cifar-10-batches-py", "cifar-10-python.tar.gz", "", _parse_python),
)
_LOOKED_FOR = (
    "looked for train*.parquet and test*.parquet, data_batch_1.bin, data_batch_1, cifar-10-batches-bin/, "
    "cifar-10-batches-py/, cifar-10-binary.tar.gz, cifar-10-python.tar.gz, train/<class>/ and test/<class>/"
)


def _labelled(batches: list[Batch]) -> LabelledImages:
    planes = np.concatenate([planes for planes, _ in batches]).reshape(-1, 3, SIDE, SIDE)
    labels = np.concatenate([labels for _, labels in batches])
    return LabelledImages(
        torch.from_numpy(np.ascontiguousarray(planes.transpose(0, 2, 3, 1))), torch.from_numpy(labels)
    )


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise DataError(f"{path}: {size:,} bytes; a file of this archive has at most {_MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the archive has six such files") from error


def _read_parquet(folder: Path, split: str) -> LabelledImages:
    paths = sorted(folder.glob(f"{split}*.parquet"))
    if not paths:
        raise DataError(f"{folder}: no {split}*.parquet beside the other parquet files")
    files = [_read_parquet_file(path) for path in paths]
    return LabelledImages(torch.cat([f.images for f in files]), torch.cat([f.labels for f in files]))


def _read_parquet_file(path: Path) -> LabelledImages:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingPackage("pyarrow", extra="cifar10", why="reads CIFAR-10 parquet files") from error
    try:
        with parquet.ParquetFile(path) as file:
            table = file.read(columns=["img.bytes", "label"])
        encoded = [image and image["bytes"] for image in table["img"].to_pylist()]
        labels = table["label"].to_pylist()
    except (ArrowException, OSError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as parquet with the columns img {{bytes, path}} and label ({error})"
        ) from error
    if not encoded:
        raise DataError(f"{path}: holds no image")
    for row, image in enumerate(encoded):
        if not isinstance(image, bytes):
            raise DataError(f"{path}, record {row}: without image bytes; remove it")
    numbers = torch.from_numpy(_checked_labels(labels, str(path)))
    return LabelledImages(decode_images(encoded, lambda row: f"{path}, record {row}", (SIDE, SIDE)), numbers)


def _checked_labels(labels: list[Any], where: str) -> NDArray[np.int64]:
    for record, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CLASSES):
            found = f"label {label}" if type(label) is int else f"a label of type {type(label).__name__}"
            raise DataError(
                f"{where}, record {record}: {found}, where a class is a number from 0 to {len(CLASSES) - 1}; "
                "remove the record or get the file again"
            )
    return np.array(labels, np.int64)
