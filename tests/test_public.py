"""The public surface is what ``__all__`` says, importable, sorted and documented; importing it is cheap."""

import subprocess
import sys

import pytest

import torchspeed


def test_all_is_sorted_and_matches_the_homes() -> None:
    assert torchspeed.__all__ == sorted(torchspeed.__all__)
    assert set(torchspeed._HOMES) == set(torchspeed.__all__)
    assert dir(torchspeed) == torchspeed.__all__


@pytest.mark.parametrize("name", torchspeed.__all__)
def test_every_name_is_importable_and_documented(name: str) -> None:
    assert (getattr(torchspeed, name).__doc__ or "").strip()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = torchspeed.trian


@pytest.mark.parametrize("name", ["models.CNN", "optim.optimizer", "errors.JobError"])
def test_the_pillars_a_job_is_written_with_are_reachable(name: str) -> None:
    code = f"import torchspeed; torchspeed.{name}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("code", ["import torchspeed", "import torchspeed.cli"])
def test_importing_does_not_import_torch(code: str) -> None:
    check = f"{code}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
