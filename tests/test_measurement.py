"""A measurement has its spread and its provenance, and compares by content."""

import dataclasses
import json

import pytest

from torchspeed import Goal, Machine, Measurement, Plan
from torchspeed.levers import REGISTRY
from torchspeed.levers.hardware.precision import Precision
from torchspeed.measurement import Provenance, Spread, ratio

PROVENANCE = Provenance(Machine.detect("cpu"), "2026-01-01T00:00:00+00:00")


def measurement() -> Measurement:
    return Measurement(Plan.of(threads=1), PROVENANCE, 64, Spread.of([0.5, 0.25, 0.5]), losses=(1.0, 0.5))


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([1.0, 2, 3, 4, 5]) == Spread(3, 2, 4, 5)
    assert Spread.of([7.0]) == Spread(7, 7, 7, 1)
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_ratios_are_paired() -> None:
    assert ratio([2.0, 20, 200], [1, 10, 100]) == Spread(2, 2, 2, 3)
    with pytest.raises(ValueError, match="longer"):
        ratio([1.0], [1.0, 2.0])


def test_a_measurement_says_its_rate_and_compares_by_content() -> None:
    assert measurement().samples_per_second == 128
    assert measurement() == measurement()
    other = dataclasses.replace(measurement(), error="out of memory")
    assert measurement() != other
    assert measurement().fingerprint != other.fingerprint
    assert json.loads(json.dumps(measurement().as_dict()))["provenance"]["date"] == PROVENANCE.date


def test_goals_and_levers_have_fingerprints_too() -> None:
    assert Goal("loss", at_most=1.0).fingerprint != Goal("loss", at_least=1.0).fingerprint
    assert Precision() == REGISTRY["precision"]
    assert Precision() != REGISTRY["threads"]
    assert len({lever.fingerprint for lever in REGISTRY.values()}) == len(REGISTRY)
