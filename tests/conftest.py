"""One thread per test process: forked children must not inherit a pool of OpenMP threads."""

from pathlib import Path

import pytest
import torch
import torch.utils.tensorboard  # once here instead of in each forked child

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent")
    return folder
