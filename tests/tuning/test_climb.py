"""The way uphill: what is tried together, what need not be tried, what is worth its place."""

import dataclasses

import pytest

from torchspeed.facts import Facts
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine
from torchspeed.measure.statistics import Interval
from torchspeed.plan import Plan
from torchspeed.tuning.candidates import Candidate, candidates, leap, most_gain
from torchspeed.tuning.result import Ablation, Tried, Tuning

HERE = dataclasses.replace(Machine.detect("cpu"), cores=2, instruction_sets=("avx512f", "avx512_bf16"))
IMAGES = Facts(
    layers=frozenset({"Conv2d", "ReLU", "Linear"}),
    optimizer="Adam",
    optimizer_options=frozenset({"foreach", "fused"}),
    batch_size=64,
)
COMPUTING = {"data": 0.001, "transfer": 0.0, "forward": 0.4, "backward": 0.55, "optimizer": 0.05}
WAITING = {"data": 0.6, "transfer": 0.0, "forward": 0.2, "backward": 0.15, "optimizer": 0.05}
GAIN = Interval(2.0, 1.8, 2.2, 12, 0.96)


def test_what_promises_most_comes_first_and_what_changes_the_result_never() -> None:
    found = candidates(REGISTRY.values(), IMAGES, HERE)
    gains = [REGISTRY[one.lever].usual_gain for one in found]
    assert gains == sorted(gains, reverse=True)
    assert "batch_size" not in {one.lever for one in found}


def test_the_leap_takes_what_is_known_to_help_together() -> None:
    found = candidates(REGISTRY.values(), IMAGES, HERE)
    names = {(one.lever, one.option) for one in leap(found, REGISTRY, COMPUTING)}
    assert {("precision", "bf16"), ("memory_format", "channels_last")} <= names
    assert not {"pipeline", "placement", "loader_workers"} & {lever for lever, _ in names}
    assert ("pipeline", "compiled") in {(one.lever, one.option) for one in leap(found, REGISTRY, WAITING)}


def test_what_does_not_apply_is_not_in_the_leap() -> None:
    found = [Candidate("precision", "bf16", "no such instructions"), Candidate("memory_format", "channels_last")]
    assert [one.lever for one in leap(found, REGISTRY, COMPUTING)] == ["memory_format"]


@pytest.mark.parametrize(
    ("lever", "parts", "most"),
    [
        ("pipeline", COMPUTING, 1.001),
        ("pipeline", WAITING, 2.5),
        ("optimizer_impl", COMPUTING, 1.0526),
        ("precision", COMPUTING, float("inf")),
        ("optimizer_impl", {"data": 0.1, "step": 0.9}, float("inf")),
    ],
)
def test_the_most_that_a_lever_could_gain(lever: str, parts: dict[str, float], most: float) -> None:
    assert most_gain(REGISTRY[lever], parts)[0] == pytest.approx(most, rel=1e-3)


def tuning(**changes: object) -> Tuning:
    tried = (
        Tried("precision", "bf16", GAIN, "gradients within 0.40%", True, "faster and still right"),
        Tried("threads", 1, Interval(0.5, 0.4, 0.6, 10, 0.96), "", False, "slower"),
        Tried("compile", "default", None, "", False, "failed: no answer within 20 s"),
        Tried("cuda_graphs", "step", None, "", False, "CUDA graphs need an NVIDIA GPU"),
        Tried("cudnn_benchmark", "on", None, "", False, "cuDNN works on NVIDIA GPUs"),
    )
    fields: dict[str, object] = {
        "job": "job",
        "machine": "cpu",
        "date": "2026-01-01",
        "plan": Plan.of(precision="bf16"),
        "baseline_samples_per_second": 100.0,
        "tuned_samples_per_second": 200.0,
        "speedup": GAIN,
        "tried": tried,
        "ablation": (Ablation("precision", "bf16", GAIN, True),),
        "parts": COMPUTING,
        "noise": 1.01,
        "first_seconds": 0.1,
        "seconds": 60.0,
        "budget": 90.0,
        "complete": True,
    }
    return Tuning(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_tuning_survives_being_stored() -> None:
    assert Tuning.from_state(tuning().to_state()) == tuning()
    nothing = tuning(speedup=None, plan=Plan(), tried=(), ablation=())
    assert Tuning.from_state(nothing.to_state()) == nothing


def test_the_plan_has_its_evidence_in_comments() -> None:
    text = tuning().to_toml()
    assert "# precision=bf16: faster and still right; the plan without it ÷ the plan: 2× [1.8, 2.2]; gradients" in text
    assert "# refused: threads=1: 0.5× [0.4, 0.6]: slower" in text
    assert Plan.from_toml(text) == Plan.of(precision="bf16")


def test_the_page_says_what_was_kept_and_what_was_not_timed() -> None:
    text = str(tuning())
    assert "kept: faster and still right" in text
    assert "compile=default: failed: no answer within 20 s" in text
    assert "2 options do not apply to this job here; --json says why of each" in text
    assert "CUDA graphs need" not in text
    assert "job: as written 100 samples/s, tuned 200: 2× [1.8, 2.2]\nplan: precision=bf16" in text


def test_nothing_found_is_said() -> None:
    text = str(tuning(speedup=None, plan=Plan(), ablation=(), tuned_samples_per_second=100.0))
    assert "nothing that was tried is faster, still right and paid back" in text
