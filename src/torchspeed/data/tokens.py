"""Files of tokens, mapped into memory.

A text is tokenised once and read many times, so training starts from a file of numbers: raw ones (``train.bin``, as
nanoGPT writes it: 16 bits each, no header) or a NumPy array. Mapped, it takes no time to open and no memory of the
process: the operating system keeps what was read, for all workers and ranks at once.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from torchspeed.data.text import Vocabulary, read_text
from torchspeed.errors import DataError


def read_tokens(
    path: str | Path, dtype: DTypeLike | None = None, *, vocabulary: Vocabulary | None = None
) -> NDArray[Any]:
    """Tokens [N] of a file, by the end of its name; integers, read-only where they are mapped.

    - ``.bin``: raw integers of ``dtype``, uint16 unless given, mapped.
    - ``.npy``: an array [N] of integers, mapped; ``dtype``, where given, must be its own.
    - any other: a text in UTF-8, encoded by ``vocabulary``, or by its own (``Vocabulary.of(read_text(path))``).

    Raises ``DataError`` naming the file where its size is not what its header or ``dtype`` says.
    """
    path = Path(path)
    wanted = None if dtype is None else np.dtype(dtype)
    if wanted is not None and wanted.kind not in "ui":
        raise DataError(f"{path}: tokens cannot be read as {wanted}; give dtype= an integer type, such as 'uint16'")
    if path.suffix == ".npy":
        return _mapped_array(path, wanted)
    if path.suffix == ".bin":
        return _mapped(path, wanted or np.dtype("<u2"))
    text = read_text(path)
    return (vocabulary or Vocabulary.of(text)).encode(text)


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        size = path.stat().st_size
        if size and size % dtype.itemsize == 0:
            return np.memmap(path, dtype, mode="r")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    raise DataError(
        f"{path}: {size:,} bytes are not a whole number, above 0, of tokens of {dtype.itemsize} bytes ({dtype}); "
        "it is empty or torn, or dtype= must say another type"
    )


def _mapped_array(path: Path, wanted: np.dtype[Any] | None) -> NDArray[Any]:
    try:
        size = path.stat().st_size
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, OverflowError) as error:  # no header, one that is cut, or sizes beyond the file
        raise DataError(f"{path}: not a whole .npy file of numbers ({error})") from error
    if not isinstance(tokens, np.memmap) or tokens.ndim != 1 or tokens.dtype.kind not in "ui" or not tokens.size:
        found = f"{tokens.dtype} {list(tokens.shape)}" if isinstance(tokens, np.ndarray) else "an archive of arrays"
        raise DataError(f"{path}: {found}; tokens are one row of integers, at least one")
    if tokens.offset + tokens.nbytes != size:
        raise DataError(
            f"{path}: its header declares {len(tokens):,} tokens of {tokens.itemsize} bytes where the file holds "
            f"{size - tokens.offset:,} bytes of them; it was written to since, or badly copied"
        )
    if wanted is not None and wanted != tokens.dtype:
        raise DataError(f"{path}: its tokens are {tokens.dtype}, not {wanted}; leave dtype= out")
    return tokens
