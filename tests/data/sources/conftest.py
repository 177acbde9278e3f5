"""Pictures, their files, and torchvision, whose compiled operators a CPU-only PyTorch may lack."""

import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vision


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision, as far as it can be had beside this PyTorch."""
    return vision.torchvision


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """uint8 [H, W, 3] (or [H, W] in grey), smooth enough for a JPEG to be small, another for each seed."""

    def make(seed: int, height: int = 32, width: int = 40, grey: bool = False) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        return np.array(image.convert("L") if grey else image)

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """The bytes of an image file."""

    def bytes_of(image: Any, kind: str = "JPEG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
        return buffer.getvalue()

    return bytes_of
