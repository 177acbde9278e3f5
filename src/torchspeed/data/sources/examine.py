"""Some samples of a dataset are taken apart before all are, to see whether that may be done at all.

Each is taken apart twice, under different states of Python's, NumPy's and PyTorch's generators. What is read must not
depend on these, nor draw from them: then the transform, run on the raw image from the state that the sample starts
with, draws the numbers that it draws in the user's own code. That this gives the very sample is tried out, too.
"""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from torchspeed.data.fetch import raised_at, seed_generators
from torchspeed.data.sources.images import Look, look
from torchspeed.data.sources.probe import Reader
from torchspeed.data.sources.source import Hole, Opaque
from torchspeed.data.sources.tree import leaves, replaced, same
from torchspeed.errors import DataError, TorchspeedError

_LOOKS = 16
REPLAYS = 3  # samples that are put together again: each runs the transform twice


def some_samples(count: int) -> list[int]:
    """The first, the last, and others between that do not change from run to run."""
    between = np.random.default_rng(0).integers(0, count, _LOOKS - 2)
    return sorted({0, count - 1, *between.tolist()})


def examine(reader: Reader, samples: Iterable[int]) -> tuple[list[Look], dict[int, Any]]:
    """What the raw images of these samples are, and the rest of each.

    Raises ``Opaque`` if a sample cannot be taken apart, is random beside its transform or holds another kind of image
    than the others; ``DataError`` if the dataset itself raises. Moves the global generators.
    """
    looks: list[Look] = []
    rests: dict[int, Any] = {}
    for index in samples:
        (raw, rest), drew = _take(reader, index, 1)
        (again, rest_again), drew_again = _take(reader, index, 2)
        if not same(raw, again):
            raise Opaque(f"the image of sample {index} differs from call to call before the transform")
        if not same(rest, rest_again):
            raise Opaque(f"what sample {index} holds beside its image differs from call to call")
        if drew or drew_again:
            raise Opaque(f"sample {index} draws random numbers outside of its transform")
        looks.append(look(raw, index))
        rests[index] = rest
        if looks[0].holds != looks[-1].holds:
            raise Opaque(f"the image of sample {index} is a {looks[-1].holds}, that of sample 0 a {looks[0].holds}")
    return looks, rests


def replay(reader: Reader, samples: Iterable[int]) -> None:
    """Take a sample apart and put it together again; raises ``Opaque`` if that is not what the dataset gives."""
    for index in samples:
        raw, rest = reader.take(index)
        ((hole, _),) = [(path, leaf) for path, leaf in leaves(rest) if isinstance(leaf, Hole)]
        whole = _sample(reader, index, seed=index)
        seed_generators(index)
        try:
            image = raw if reader.transform is None else reader.transform(raw)
            as_taken = same(replaced(rest, hole, image), whole)
        except Exception:
            as_taken = False
        if not as_taken and not same(_sample(reader, index, seed=index), whole):
            raise Opaque(f"sample {index} differs from call to call though the generators are the same")
        if not as_taken:
            raise Opaque(f"sample {index} is more than its transform applied to what the transform is given")


def one_more(reader: Reader, index: int) -> tuple[Look, Any]:
    """What the raw image of one more sample is, and its rest. Errors are those of ``examine``."""
    (raw, rest), drew = _take(reader, index, 1)
    if drew:
        raise Opaque(f"sample {index} draws random numbers outside of its transform")
    return look(raw, index), rest


def _take(reader: Reader, index: int, seed: int) -> tuple[tuple[Any, Any], bool]:
    """(what ``reader.take`` gives from this state of the generators, whether it moved them)"""
    seed_generators(seed)
    before = _states()
    try:
        taken = reader.take(index)
    except (Opaque, TorchspeedError):
        raise
    except Exception as error:
        _sample(reader, index, seed)  # raises if the dataset raises by itself
        raise Opaque(f"sample {index} is worked on after its transform{raised_at(error)}") from error
    return taken, before != _states()


def _sample(reader: Reader, index: int, seed: int) -> Any:
    """The sample by the user's own code alone."""
    seed_generators(seed)
    try:
        return reader.dataset[index]
    except TorchspeedError:
        raise
    except Exception as error:
        raise DataError(f"sample {index} raised {type(error).__name__}: {error}{raised_at(error)}") from error


def _states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state(legacy=False)
    of_numpy = (numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"], numpy_state["has_gauss"])
    return random.getstate(), of_numpy, torch.get_rng_state().numpy().tobytes()
