"""The matrices of maps are those of Python's own arithmetic, to the last bit."""

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from torchspeed.data.kernels.matrices import affine_matrices, rotation_matrices
from vision import v1, v2

COUNT = 2000


@pytest.fixture
def numbers() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("library", [v1, v2], ids=["v1", "v2"])
def test_affine_maps_are_torchvisions(library: Any, numbers: np.random.Generator) -> None:
    functional = library.functional._geometry if library is v2 else library.functional
    degrees, scales = numbers.uniform(-180, 180, COUNT), numbers.uniform(0.5, 2.0, COUNT)
    degrees[:5] = 0, 90, -90, 180, 360
    shifts, centres = numbers.integers(-30, 30, (COUNT, 2)).astype(np.float64), numbers.uniform(0, 300, (COUNT, 2))
    shears = numbers.uniform(-45, 45, (COUNT, 2))
    ours = np.empty((COUNT, 6))
    affine_matrices(degrees, shifts, scales, shears, centres, library is v2, ours)
    rows = zip(centres.tolist(), degrees.tolist(), shifts.tolist(), scales.tolist(), shears.tolist(), strict=True)
    assert ours.tolist() == [functional._get_inverse_affine_matrix(*row) for row in rows]


def test_rotations_are_pillows(numbers: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    degrees, centres = numbers.uniform(-720, 720, COUNT), numbers.uniform(0, 300, (COUNT, 2))
    degrees[:6] = 0, 90, -90, 180, 360, -1e-20
    ours = np.empty((COUNT, 6))
    rotation_matrices(degrees, centres, ours)
    theirs: list[list[float]] = []
    monkeypatch.setattr(Image.Image, "transform", lambda self, size, method, data, *rest, **more: theirs.append(data))
    for angle, centre in zip(degrees.tolist(), centres.tolist(), strict=True):
        Image.new("L", (8, 8)).rotate(angle, center=tuple(centre))
    assert ours.tolist() == theirs
    assert np.mean(ours[:, 0] != np.cos(np.radians(degrees))) > 0.5  # it rounds to 15 digits, and that can be seen
    assert math.isclose(ours[7, 0], math.cos(math.radians(degrees[7])), abs_tol=1e-15)
