"""A batch size just over a multiple of what the kernels cut the work into.

Matrix kernels work in tiles, of 64 rows or more for the usual ones. A batch of 65 needs two tiles of 64 in the
dimension of the batch: the second is computed whole for one sample. It hurts most where the batch alone is that
dimension (Linear layers on one vector per sample), less where places or tokens multiply it.
Source: https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/ ("Tile Quantization").
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject

_TILE, _VECTOR, _JUST_OVER = 64, 8, 0.02


def batch_tail(subject: Subject) -> Iterator[Advice]:
    batch = subject.job.batch_size
    over = batch % _TILE
    if batch < _TILE or over > _JUST_OVER * batch or batch % _VECTOR == 0:
        return
    below = batch - over
    computed = below + _TILE
    yield Advice(
        "batch_tail",
        subject.job_line("batch_size"),
        f"a batch of {batch} is {over} over {below}",
        f"in tiles of {_TILE} rows, products over the batch compute {computed} rows for it: "
        f"up to {computed / batch:.2f}× the work per sample",
        f"set batch_size={below}, or fill the tile with {computed}",
    )
