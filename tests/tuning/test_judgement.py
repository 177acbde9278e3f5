"""A lever that is fast and honest is kept; one that is as fast and lies is refused, for what it lies about.

The full number of trials is in ``bench/honesty.py``.
"""

import re
import time
from collections.abc import Iterator

import pytest

import planted
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine
from torchspeed.tuning.candidates import Candidate
from torchspeed.tuning.climb import Climb
from torchspeed.tuning.laboratory import Laboratory
from torchspeed.tuning.source import write_source

ALLOWED = 900 << 20
TRIES = 3  # on a busy machine the clock may not tell what is faster; a lie is kept in none of them


@pytest.fixture(scope="module")
def climb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Climb]:
    folder = tmp_path_factory.mktemp("honesty")
    planted.register()
    write_source(planted.planted_job, folder / "job")
    with Laboratory(folder, folder / "job", Machine.detect("cpu"), "cpu", time.monotonic() + 600) as laboratory:
        climb = Climb(laboratory, {lever.name: lever for lever in planted.PLANTED}, ALLOWED, print)
        climb.begin()
        yield climb
    for lever in planted.PLANTED:
        REGISTRY.pop(lever.name, None)


def test_the_job_as_written_agrees_with_itself(climb: Climb) -> None:
    assert climb.judge.reference.reproducible
    assert climb.judge.reference.noise == 0
    assert 0 < climb.judge.reference.rounding < 0.05


@pytest.mark.parametrize(
    ("lever", "sentence"),
    [
        ("lie_skips_backward", "no gradient for|the first steps moved the weights 0"),
        ("lie_drops_data", "the end of the epoch has"),
        ("lie_too_coarse", "gradients at equal weights are off by"),
        ("lie_stale_batches", "is another one|has 64 samples instead of 4"),
        ("lie_reorders", "batch 0 of epoch 0 is another one"),
        ("lie_fast_at_first", "no gain that can be told from noise|slower|not decided"),
        ("lie_never_pays_back", "its start costs .* more and it saves"),
        ("lie_too_much_memory", "more than the 0.88 GiB that are allowed"),
        ("lie_skips_the_last_batch", "step 8 from equal weights moves them 0.00 times as far"),
        (
            "lie_freezes_a_bias",
            r"the first steps moved layers\.4\.bias 0\.00 times|gradient of layers\.4\.bias is zero",
        ),
        ("lie_fixed_rate", "moves the weights with a learning rate of zero"),
        ("lie_evaluates_half", "it evaluates on .* instead of"),
    ],
)
def test_a_lie_is_refused(climb: Climb, lever: str, sentence: str) -> None:
    said = []
    while not re.search(sentence, " ".join(said)) and len(said) < TRIES:
        tried = climb.attempt(Candidate(lever, "on"))
        assert tried is not None
        assert not tried.kept
        said.append(f"{tried.why}; {tried.proof}")
    assert re.search(sentence, " ".join(said))


def test_the_truth_is_kept(climb: Climb) -> None:
    for _ in range(TRIES):
        tried = climb.attempt(Candidate("planted_truth", "on"))
        assert tried is not None
        if tried.kept:
            break
    assert tried.kept, tried.why
    assert tried.proof.startswith("same bits: 11 batches, 8 gradients, ")
    assert dict(climb.plan.options) == {"planted_truth": "on"}
