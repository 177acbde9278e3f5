"""A plan inside somebody's own loop: it trains as before, and what had no effect is said."""

from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

import torchspeed
from torchspeed import Plan, prepare
from torchspeed.errors import JobError, PlanError
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine
from torchspeed.run import Run

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(64, 3, 8, 8, generator=GENERATOR)
LABELS = (IMAGES.mean((1, 2, 3)) > 0).long()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8 * 16, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.max_pool2d(self.conv(images).relu(), 2)
        return self.last(features.flatten(1))


class Samples(Dataset[tuple[Tensor, int]]):
    """Written as people write them: one sample at a time."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return IMAGES[index], index


class Noisy(Samples):
    """With an augmentation that draws from PyTorch's generator."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return IMAGES[index] + torch.rand(()), index


class Doubled(DataLoader[Any]):
    def __iter__(self) -> Any:
        return ((2 * images, ids) for images, ids in super().__iter__())


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(IMAGES)


def training() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(3)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return model, optimizer, DataLoader(TensorDataset(IMAGES, LABELS), batch_size=16, shuffle=True)


def losses_of(plan: Plan | str | Path | None) -> list[float]:
    model, optimizer, loader = prepare(*training(), plan=plan, quiet=True)
    losses = []
    for _ in range(3):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def as_written() -> list[float]:
    return losses_of(None)


def test_without_a_plan_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    given = training()
    prepared = prepare(*given)
    assert all(one is other for one, other in zip(prepared, given, strict=True))
    assert prepared.applied == prepared.skipped == ()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "plan",
    [
        Plan.of(memory_format="channels_last", optimizer_impl="fused"),
        Plan.of(loader_workers=2, prefetch=1),
        Plan.of(gradient_accumulation=4),
    ],
    ids=str,
)
def test_a_loop_trains_as_before(plan: Plan, as_written: list[float]) -> None:
    assert losses_of(plan) == pytest.approx(as_written, rel=1e-3)


def test_a_plan_is_read_from_its_file_and_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('memory_format = "channels_last"\ngradient_accumulation = 4\n')
    prepared = prepare(*training(), plan=str(path))
    assert prepared.model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert prepared.applied == ("memory_format=channels_last",)
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "applied: memory_format=channels_last; gradient_accumulation=4 is skipped" in told


def test_what_acts_in_the_loop_is_skipped_and_not_silently_lost() -> None:
    prepared = prepare(*training(), plan=Plan.of(gradient_accumulation=4), quiet=True)
    assert prepared.applied == ()
    assert len(prepared.skipped) == 1
    assert "loop" in prepared.skipped[0]


@final
class Careless(Lever):
    """Does not ask who holds the loop."""

    name = "careless"
    pillar = "model"
    stage = Stage.STEP
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.OVERHEAD})

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "on")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None: ...

    def apply(self, run: Run, option: Option) -> None:
        run.step_wrappers.append(lambda step: step)


def test_a_lever_that_does_not_ask_who_holds_the_loop_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "careless", Careless())
    prepared = prepare(*training(), plan=Plan.of(careless="on"), quiet=True)
    assert prepared.applied == ()
    assert prepared.skipped == ("careless=on is skipped: it acts on the whole step, and the loop is yours",)


def test_a_lever_of_the_process_comes_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    prepared = prepare(*training(), plan=Plan.of(wait_policy="passive"), quiet=True)
    assert prepared.applied == ()
    assert "OMP_WAIT_POLICY=PASSIVE" in prepared.skipped[0]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("order", ["in order", "shuffled", "weighted", "generator"])
def test_the_samples_and_their_order_stay(order: str, drop_last: bool) -> None:
    """Also the state in which a pass leaves the global generator, which dropout draws from."""

    def loader() -> Any:
        sampler = WeightedRandomSampler(list(range(1, 65)), 50) if order == "weighted" else None
        shuffle = order in ("shuffled", "generator")
        own = torch.Generator().manual_seed(5) if order == "generator" else None
        return DataLoader(Samples(), 12, shuffle, sampler, drop_last=drop_last, generator=own)

    def passes(loader: Any) -> list[Any]:
        torch.manual_seed(7)
        ids = [ids.tolist() for _ in range(2) for _, ids in loader]
        return [ids, torch.rand(1).item()]

    model, optimizer, _ = training()
    theirs = loader()
    prepared = prepare(model, optimizer, theirs, plan=Plan.of(prefetch=1), quiet=True)
    assert prepared.loader is not theirs
    assert prepared.loader.dataset is theirs.dataset
    assert len(prepared.loader) == len(theirs)
    assert passes(prepared.loader) == passes(loader())


@pytest.mark.parametrize("own", [False, True], ids=["global generator", "its own"])
def test_workers_that_persist_take_one_number_for_all_passes(own: bool) -> None:
    def passes(wrapped: bool) -> list[Any]:
        generator = torch.Generator().manual_seed(5) if own else None
        loader: Any = DataLoader(Noisy(), 12, True, num_workers=1, persistent_workers=True, generator=generator)
        if wrapped:
            model, optimizer, _ = training()
            loader = prepare(model, optimizer, loader, plan=Plan.of(prefetch=1), quiet=True).loader
            assert not isinstance(loader, DataLoader)
        torch.manual_seed(7)
        read = [[(ids.tolist(), images - IMAGES[ids]) for images, ids in loader] for _ in range(3)]
        drawn = [float(noise[ids.index(0)].mean()) for one in read for ids, noise in one if 0 in ids]
        assert drawn != pytest.approx([drawn[0]] * 3, abs=1e-4), "each pass draws its own noise"
        return [[ids for one in read for ids, _ in one], torch.rand(1).item()]

    assert passes(wrapped=True) == passes(wrapped=False)


def test_a_plan_without_data_levers_leaves_the_loader_alone() -> None:
    given = training()
    assert prepare(*given, plan=Plan.of(memory_format="channels_last"), quiet=True).loader is given[2]


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (None, "no loader was given"),
        ([(IMAGES, LABELS)], "list makes its batches in its own way"),
        (DataLoader(Stream()), "iterable"),
        (DataLoader(Samples(), batch_size=None), "not at all"),
        (torchspeed.DataLoader(Samples(), 8, num_workers=0), "its own arguments"),
        (Doubled(Samples(), 8), "Doubled, which makes its batches in its own way (__iter__)"),
        (DataLoader(Samples(), 8, worker_init_fn=print), "worker_init_fn would be lost"),
        (
            DataLoader(Samples(), 8, num_workers=1, multiprocessing_context="fork", timeout=9),
            "multiprocessing_context and timeout would be lost",
        ),
    ],
    ids=["none", "list", "stream", "unbatched", "ours", "subclass", "worker_init_fn", "context and timeout"],
)
def test_a_loader_that_levers_cannot_act_on_stays_with_the_reason(loader: Any, why: str) -> None:
    model, optimizer, _ = training()
    prepared = prepare(model, optimizer, loader, plan=Plan.of(loader_workers=1), quiet=True)
    assert prepared.loader is loader
    assert why in prepared.skipped[0]


def test_an_unknown_lever_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match="unknown lever 'warp'"):
        prepare(*training(), plan=Plan.of(warp=9))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": Net}, JobError, "model is a type"),
        ({"model": nn.ReLU()}, JobError, "no parameters"),
        ({"model": Net()}, JobError, "none of them the model's"),
        ({"optimizer": "adam"}, JobError, "optimizer is a str"),
        ({"loader": 7}, JobError, "cannot be iterated"),
        ({"plan": 7}, PlanError, "plan is a int"),
        ({"plan": "nowhere.toml"}, PlanError, r"nowhere\.toml: cannot read the plan"),
    ],
    ids=["class", "empty model", "another model", "optimizer", "loader", "plan", "path"],
)
def test_what_cannot_be_prepared_is_said(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    model, optimizer, loader = training()
    given = {"model": model, "optimizer": optimizer, "loader": loader, "plan": None}
    with pytest.raises(error, match=says):
        prepare(**{**given, **changes})
