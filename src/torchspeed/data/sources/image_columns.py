"""Datasets of encoded images in a column: Hugging Face datasets, and parquet files as on their hub.

A Hugging Face dataset decodes an image while it is asked for a row, and its ``set_transform`` sees whole rows, so what
it does to an image cannot be followed. Here the same rows are a map-style dataset as in torchvision, ``(image, label)``
with a ``transform`` of the image, and the compiler finds the bytes in the column.
"""

import io
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from torch.utils.data import Dataset

from torchspeed.data.decode import ORIENTATION, Mode
from torchspeed.errors import DataError, MissingPackage

Transform = Callable[[Any], Any] | None


class _ColumnImages(Dataset[tuple[Any, Any]]):
    """Sample ``i`` is ``(transform(image), label)``; the image is a PIL image of ``mode``."""

    def __init__(self, transform: Transform, mode: Mode) -> None:
        self.transform, self.mode = transform, mode

    @final
    def __getitem__(self, index: int) -> tuple[Any, Any]:
        record, label = self._row(index)
        image = _open(record, self.mode)
        return (image if self.transform is None else self.transform(image)), label

    @abstractmethod
    def _row(self, index: int) -> tuple[Any, Any]:
        """(bytes or {bytes, path}, label)"""


@final
class HuggingFaceImages(_ColumnImages):
    """See ``hugging_face``."""

    def __init__(self, rows: Any, image: str, label: str, transform: Transform, mode: Mode) -> None:
        super().__init__(transform, mode)
        self.rows, self.image, self.label = rows, image, label

    def __len__(self) -> int:
        return len(self.rows)

    def _row(self, index: int) -> tuple[Any, Any]:
        row = self.rows[index]
        return row[self.image], row[self.label]


def hugging_face(
    dataset: Any, image: str = "image", label: str = "label", transform: Transform = None, mode: Mode = "RGB"
) -> HuggingFaceImages:
    """A ``datasets.Dataset`` with a column of images as ``(transform(image), label)``.

    The image is a PIL image of ``mode``, upright as EXIF asks. ``image`` and ``label`` name the columns; a format or
    transform of the dataset itself is left out. Raises ``DataError`` if there is no such column of images.
    """
    features = getattr(dataset, "features", None)
    if not hasattr(dataset, "cast_column") or not isinstance(features, Mapping):
        raise DataError(f"{type(dataset).__name__} is no datasets.Dataset; of a DatasetDict take one split")
    missing = [name for name in (image, label) if name not in features]
    if missing or not hasattr(features[image], "decode"):
        wrong = f"no column {missing[0]!r}" if missing else f"column {image!r} is not of images"
        raise DataError(f"the dataset has {wrong}; its columns are {', '.join(features)}")
    plain = dataset.with_format(None).cast_column(image, type(features[image])(decode=False))
    return HuggingFaceImages(plain, image, label, transform, mode)


@final
class ParquetImages(_ColumnImages):
    """Images and labels of parquet files, read into memory as they are encoded.

    ``files``: a parquet file, or several whose rows follow one another. ``image``: a column of bytes or of {bytes,
    path}; ``label``: another column. Raises ``DataError`` naming the file, ``MissingPackage`` without pyarrow.
    """

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        image: str = "image",
        label: str = "label",
        transform: Transform = None,
        mode: Mode = "RGB",
    ) -> None:
        super().__init__(transform, mode)
        paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
        if not paths:
            raise DataError("ParquetImages: no file is given")
        self.images, labels = _read_columns([Path(path) for path in paths], image, label)
        self.labels = labels.to_pylist()

    def __len__(self) -> int:
        return len(self.labels)

    def _row(self, index: int) -> tuple[Any, Any]:
        return self.images[index].as_py(), self.labels[index]


def _read_columns(paths: list[Path], image: str, label: str) -> tuple[Any, Any]:
    """Two Arrow columns, the rows of one file after those of another."""
    try:
        from pyarrow import ArrowException, concat_tables, parquet
    except ImportError as error:
        raise MissingPackage("pyarrow", extra="cifar10", why="reads parquet files") from error
    tables = []
    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if image not in names or label not in names:
                    raise DataError(f"{path}: no columns {image!r} and {label!r}; it has {', '.join(names)}")
                tables.append(file.read(columns=[image, label]))
            table = concat_tables(tables)
        except (ArrowException, OSError) as error:
            raise DataError(
                f"{path}: cannot be read as parquet like the others ({error}); get the file again"
            ) from error
    return table[image], table[label]


def _open(record: Any, mode: Mode) -> Any:
    """As Hugging Face decodes an image: turned upright if EXIF says how."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingPackage("pillow", extra="images", why="decodes the images of a column") from error
    data = record["bytes"] if isinstance(record, dict) else record
    with Image.open(record["path"] if data is None else io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image) if ORIENTATION in image.getexif() else image
        return upright.convert(mode)
