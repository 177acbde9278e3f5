"""The ready-made jobs: the one true thing that can be said of them, and nothing else."""

from pathlib import Path

import pytest

from torchspeed import load_job
from torchspeed.engine.build import build
from torchspeed.machine import Machine
from torchspeed.measure.advice import Subject, advise
from torchspeed.plan import Plan

DATA = {"digits": None, "characters": None, "spoken-digits": "spoken_digits"}
POOLED_LATE = {"digits", "spoken-digits"}  # models.CNN pools after its activation; a lever puts it right


@pytest.mark.parametrize("name", DATA)
def test_a_recipe_is_not_accused_wrongly(name: str, request: pytest.FixtureRequest) -> None:
    if name == "digits":
        pytest.importorskip("sklearn", reason="scikit-learn holds the images")
    overrides = {}
    if DATA[name] is not None:
        overrides["data"] = str(Path(request.getfixturevalue("shared")) / DATA[name])
    job, machine = load_job(name, **overrides), Machine.detect("cpu")
    advice, notes = advise(Subject(job, build(job, Plan(), machine), machine, {}, {}))
    assert notes == ()
    assert {each.name for each in advice} == ({"activation_before_pooling"} if name in POOLED_LATE else set())
    assert all("models/cnn.py:" in each.place for each in advice)
