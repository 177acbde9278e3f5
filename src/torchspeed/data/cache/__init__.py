"""What was computed once, kept as memory-mapped ``.npy`` files that any process opens in milliseconds.

    root/NAME-FINGERPRINT/images.npy    plain arrays: NumPy opens them with np.load(path, mmap_mode="r")
                          labels.npy
                          cache.json    format, fingerprint, and for each array dtype, shape, bytes and digests
    root/.NAME-FINGERPRINT.lock         who builds holds it
    root/.building-NAME-FINGERPRINT-…   what is being built

A mapped file costs no reading at the start and no memory of its own: the kernel brings in the pages that are touched,
all processes of a machine share them, and drops them when memory is short.
"""

from torchspeed.data.cache.ragged import RaggedImages, RaggedWriter
from torchspeed.data.cache.reader import Cache
from torchspeed.data.cache.store import entry_path, open_or_build
from torchspeed.data.cache.writer import Rows, Writer

__all__ = ["Cache", "RaggedImages", "RaggedWriter", "Rows", "Writer", "entry_path", "open_or_build"]
