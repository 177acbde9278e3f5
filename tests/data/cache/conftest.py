"""Where the cache lies, and one entry in it."""

from pathlib import Path

import pytest

from cached import KEY, filled, opened
from torchspeed.data.cache import entry_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def entry(root: Path) -> Path:
    """A published entry of value 1."""
    assert opened(root, filled(1)).built
    return entry_path(root, "photos", KEY)
