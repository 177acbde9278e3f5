"""The contract of every lever, and that each option trains and keeps its guarantee."""

import contextlib
import dataclasses
import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchspeed
from torchspeed import Guarantee, Plan, Stage
from torchspeed.engine.resolve import resolve
from torchspeed.errors import NotApplicable, PlanError
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Lever, ProcessLever
from torchspeed.levers import REGISTRY
from torchspeed.levers.hardware.precision import Precision
from torchspeed.machine import Machine

HERE = Machine.detect("cpu")
MACHINES = {
    "here": HERE,
    "old cpu": dataclasses.replace(HERE, instruction_sets=(), cores=1),
    "volta": dataclasses.replace(HERE, device="cuda", device_name="V100", compute_capability=(7, 0)),
    "hopper": dataclasses.replace(HERE, device="cuda", device_name="H200", compute_capability=(9, 0)),
}
MANY = 8


def representatives(lever: Lever) -> list[Any]:
    """Options to try: where they are many, the first, the middle and the last."""
    options = [option for option in lever.options(Facts(), HERE) if option != AS_WRITTEN]
    return options if len(options) < MANY else [options[0], options[len(options) // 2], options[-1]]


CHOICES = [(name, option) for name, lever in sorted(REGISTRY.items()) for option in representatives(lever)]


def image_job(**changes: Any) -> torchspeed.Job:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 8, 8, generator=generator)
    labels = (images.mean((1, 2, 3)) > 0).long()
    fields: dict[str, Any] = {
        "name": "images",
        "model": lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 2)
        ),
        "train": (images, labels),
        "valid": (images, labels),
        "loss": nn.CrossEntropyLoss(),
        "optimizer": lambda params: torch.optim.Adam(params, lr=1e-2),
        "batch_size": 32,
        "epochs": 4,
    }
    return torchspeed.Job(**{**fields, **changes})


def train(folder: Path, plan: Plan, **changes: Any) -> torchspeed.Result:
    threads = torch.get_num_threads()
    try:
        return torchspeed.train(image_job(**changes), plan, run_dir=folder, progress=False, device="cpu")
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def as_written(tmp_path_factory: pytest.TempPathFactory) -> torchspeed.Result:
    return train(tmp_path_factory.mktemp("as-written") / "run", Plan())


@pytest.mark.parametrize("lever", REGISTRY.values(), ids=lambda lever: lever.name)
def test_a_lever_is_complete(lever: Lever) -> None:
    kind = type(lever)
    source = Path(inspect.getfile(kind))
    assert source.stem == lever.name, "one technique, one file, of its name"
    assert source.parent.name == lever.pillar
    assert lever.stage in Stage
    assert lever.guarantee in Guarantee
    assert lever.options(Facts(), HERE)[0] == AS_WRITTEN
    assert len(set(map(repr, lever.options(Facts(), HERE)))) == len(lever.options(Facts(), HERE))
    assert getattr(kind, "__final__", False), "levers are final"
    prose = inspect.getmodule(kind).__doc__ or ""  # type: ignore[union-attr]
    for said in ("Physically", "wins", "loses", "Source", lever.guarantee.name):
        assert said in prose, f"the docstring says nothing of {said!r}"
    functions = [f for _, f in inspect.getmembers(inspect.getmodule(kind), inspect.isfunction)]
    assert any(f.__module__ == kind.__module__ and not f.__name__.startswith("_") for f in functions)


def test_the_registry_has_every_lever_of_every_pillar() -> None:
    files = {path.stem for path in Path(inspect.getfile(Lever)).parent.glob("levers/*/*.py")} - {"__init__"}
    assert set(REGISTRY) == files
    assert {lever.pillar for lever in REGISTRY.values()} == {"data", "model", "optim", "parallel", "hardware"}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize(("name", "option"), CHOICES)
def test_check_answers_by_not_applicable_alone(machine: Machine, name: str, option: Any) -> None:
    facts = Facts(optimizer="Rprop", batch_size=8)
    with contextlib.suppress(NotApplicable):
        REGISTRY[name].check(facts, machine, option)


@pytest.mark.usefixtures("captured_only")
@pytest.mark.parametrize(("name", "option"), CHOICES)
def test_every_option_trains_or_says_why_not(
    tmp_path: Path, as_written: torchspeed.Result, name: str, option: Any
) -> None:
    result = train(tmp_path / "run", Plan.from_mapping({name: option}))
    if result.skipped:
        assert result.skipped[0].startswith(f"{name}={option} is skipped: ")
        assert result.loss == as_written.loss
        return
    assert result.applied == (f"{name}={option}",)
    if REGISTRY[name].guarantee is Guarantee.EXACT:
        assert result.loss == as_written.loss
    elif REGISTRY[name].guarantee is Guarantee.CLOSE:
        assert result.loss == pytest.approx(as_written.loss, rel=0.02)
    else:
        assert result.loss is not None
        assert math.isfinite(result.loss)


def test_memory_format_is_seen_by_the_convolution(tmp_path: Path) -> None:
    model = train(tmp_path / "run", Plan.of(memory_format="channels_last")).model
    weight = next(model.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_precision_reaches_the_layers(tmp_path: Path) -> None:
    if "avx512_bf16" not in HERE.instruction_sets and "amx_bf16" not in HERE.instruction_sets:
        pytest.skip("this CPU has no bf16 instructions")
    seen = set()

    class Watch(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            seen.add(out.dtype)
            return out

    train(tmp_path / "run", Plan.of(precision="bf16"), model=lambda: nn.Sequential(nn.Flatten(), Watch(192, 2)))
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize(
    ("machine", "option", "sentence"),
    [
        ("here", "tf32", "tf32 needs a GPU of compute capability 8.0; this is a CPU"),
        ("old cpu", "bf16", "has no bf16 instructions"),
        ("volta", "bf16", "bf16 needs a GPU of compute capability 8.0; this is V100, 7.0"),
        ("volta", "fp16", None),
        ("hopper", "tf32", None),
    ],
)
def test_precision_goes_where_there_are_kernels(machine: str, option: str, sentence: str | None) -> None:
    if sentence is None:
        Precision().check(Facts(), MACHINES[machine], option)
        return
    with pytest.raises(NotApplicable, match=sentence):
        Precision().check(Facts(), MACHINES[machine], option)


@pytest.mark.parametrize("name", ["for-loop", "foreach", "fused"])
def test_the_implementation_reaches_the_optimizer(name: str) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(3))], lr=0.1)
    torchspeed.levers.optim.optimizer_impl.set_implementation(optimizer, name)
    group = optimizer.param_groups[0]
    assert (group["foreach"], group["fused"]) == (name == "foreach", name == "fused")


def test_an_optimizer_without_the_implementation_is_left_alone(tmp_path: Path) -> None:
    result = train(tmp_path / "run", Plan.of(optimizer_impl="fused"), optimizer=_rprop)
    assert result.skipped == ("optimizer_impl=fused is skipped: Rprop has no fused implementation",)


def _rprop(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Rprop(params)


def test_accumulation_refuses_batch_norm(tmp_path: Path) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 2))

    result = train(tmp_path / "run", Plan.of(gradient_accumulation=2), model=model)
    assert "batch normalisation would take its statistics from a piece" in result.skipped[0]


def test_a_batch_size_is_that_of_the_optimizer_step(tmp_path: Path) -> None:
    run = torchspeed.build(image_job(), Plan.of(batch_size=48), HERE)
    assert [len(labels) for _, labels in run.loader.epoch(0)] == [48, 16]
    assert run.valid is not None
    assert run.valid.batch_size == 32
    assert train(tmp_path / "run", Plan.of(batch_size=16)).steps == 16


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (96, "the data have 64 samples, so there is no batch of 96"),
        (256, "the data have fewer than 144 samples"),
        (48, "the job is written with a batch size of 48"),
    ],
)
def test_a_batch_size_that_changes_nothing_or_is_not_there_is_skipped(option: int, sentence: str) -> None:
    run = torchspeed.build(image_job(batch_size=48), Plan.of(batch_size=option), HERE)
    assert sentence in run.skipped[0]
    assert run.loader.batch_size == 48


def test_a_batch_twice_the_jobs_is_the_first_to_try() -> None:
    lever = REGISTRY["batch_size"]
    assert lever.options(Facts(batch_size=48), HERE)[:2] == (AS_WRITTEN, 96)
    assert set(lever.options(Facts(batch_size=48), HERE)) == set(lever.options(Facts(), HERE))


def test_levers_are_applied_in_the_order_of_their_stages() -> None:
    plan = Plan.of(precision="bf16", threads=1, memory_format="channels_last", loader_workers=1, optimizer_impl="fused")
    stages = [lever.stage for lever, _ in resolve(plan, Facts(), HERE)]
    assert stages == sorted(stages)


def test_a_conflict_names_both_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(REGISTRY["precision"]), "conflicts", frozenset({"threads"}))
    with pytest.raises(PlanError, match=r"precision and threads exclude each other; set one of them to 'as written'"):
        resolve(Plan.of(precision="bf16", threads=1), Facts(), HERE)


def test_threads_act_on_the_environment_of_the_process() -> None:
    threads = REGISTRY["threads"]
    assert isinstance(threads, ProcessLever)
    assert threads.environ(2) == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
