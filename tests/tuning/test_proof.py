"""What counts as the same: streams of batches, gradients, movements of the weights, losses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from torchspeed.measure import proof
from torchspeed.measure.evidence import Glimpse, Stream

STREAM = Stream(
    length=10,
    samples=100,
    glimpses=tuple(Glimpse(0, number, 10, f"digest {number}", False) for number in range(4)),
    batches_at_the_end=3,
)


def with_glimpse(number: int, **changes: object) -> Stream:
    glimpses = list(STREAM.glimpses)
    glimpses[number] = replace(glimpses[number], **changes)  # type: ignore[arg-type]
    return replace(STREAM, glimpses=tuple(glimpses))


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        (STREAM, ""),
        (with_glimpse(2, digest="other"), "batch 2 of epoch 0 is another one"),
        (with_glimpse(1, samples=9), "batch 1 of epoch 0 has 9 samples instead of 10"),
        (with_glimpse(3, changed=True), "batch 3 of epoch 0 was overwritten while it was in use"),
        (replace(STREAM, batches_at_the_end=2), "the end of the epoch has 2 batches, as written it has 3"),
        (replace(STREAM, samples=90), "an epoch has 10 batches of 90 samples instead of 10 of 100"),
        (replace(STREAM, glimpses=STREAM.glimpses[:3]), "3 batches came where as written 4 came"),
    ],
)
def test_a_stream_of_batches(candidate: Stream, sentence: str) -> None:
    assert proof.streams(STREAM, candidate) == sentence


def test_where_values_may_round_the_order_may_not_change() -> None:
    assert proof.order(STREAM, with_glimpse(2, digest="other")) == ""
    assert proof.order(STREAM, with_glimpse(2, samples=1)) != ""


def kept(folder: Path, change: Callable[[str, Tensor], Tensor | None] = lambda name, tensor: tensor) -> Path:
    """Gradients of two batches, changed: None leaves one out."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(2):
        made = {name: torch.randn(50, 20, generator=generator) for name in ("first", "second")}
        made["tiny"] = 1e-6 * torch.randn(20, generator=generator)
        changed = {name: change(name, tensor) for name, tensor in made.items()}
        save_file(
            {name: tensor for name, tensor in changed.items() if tensor is not None},
            folder / f"gradient-{number}.safetensors",
        )
    return folder


def test_equal_gradients_are_equal(tmp_path: Path) -> None:
    found = proof.gradients(kept(tmp_path / "a"), kept(tmp_path / "b"), 2)
    assert (found.equal, found.error, found.problem) == (True, 0.0, "")


def test_rounding_to_bfloat16_is_close(tmp_path: Path) -> None:
    rounded = kept(tmp_path / "b", lambda name, tensor: tensor.bfloat16().float())
    found = proof.gradients(kept(tmp_path / "a"), rounded, 2)
    assert not found.equal
    assert 0 < found.error < proof.gradient_bound(0.002, 0.0)


def test_rounding_to_two_bits_is_not(tmp_path: Path) -> None:
    rounded = kept(tmp_path / "b", lambda name, tensor: tensor.to(torch.float8_e5m2).float())
    assert proof.gradients(kept(tmp_path / "a"), rounded, 2).error > proof.gradient_bound(0.002, 0.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda name, tensor: None if name == "first" else tensor, "no gradient for first in step 1"),
        (
            lambda name, tensor: 0 * tensor if name == "first" else tensor,
            "the gradient of first is zero in step 1",
        ),
        (lambda name, tensor: tensor / 0, "gradients are not finite in step 1"),
    ],
)
def test_what_is_no_rounding(tmp_path: Path, change: Callable[[str, Tensor], Tensor | None], sentence: str) -> None:
    assert sentence in proof.gradients(kept(tmp_path / "a"), kept(tmp_path / "b", change), 2).problem


def test_a_gradient_of_nothing_may_be_left_out(tmp_path: Path) -> None:
    """That of a bias which batch norm cancels."""
    without = kept(tmp_path / "b", lambda name, tensor: None if name == "tiny" else tensor)
    assert proof.gradients(kept(tmp_path / "a"), without, 2).problem == ""


def test_a_gradient_that_was_not_there(tmp_path: Path) -> None:
    without = kept(tmp_path / "b", lambda name, tensor: None if name == "tiny" else tensor)
    assert "tiny has a gradient" in proof.gradients(without, kept(tmp_path / "a"), 2).problem


@pytest.mark.parametrize(
    ("factor", "dtype", "sentence"),
    [
        (1.0, torch.float32, ""),
        (0.97, torch.float32, ""),
        (0.5, torch.float32, "the first steps moved the weights 0.50 times as far"),
        (1.0, torch.bfloat16, "w is kept in bfloat16 instead of float32"),
    ],
)
def test_how_far_the_first_steps_moved(tmp_path: Path, factor: float, dtype: torch.dtype, sentence: str) -> None:
    start, way = torch.ones(100), torch.linspace(-1, 1, 100)
    for name, tensor in {"start": start, "ours": start + way, "theirs": (start + factor * way).to(dtype)}.items():
        save_file({"w": tensor}, tmp_path / name)
    assert proof.moved(tmp_path / "start", tmp_path / "ours", tmp_path / "theirs", ["w"]) == sentence


def test_integers_of_a_batch_must_be_equal(tmp_path: Path) -> None:
    image, label = torch.linspace(0, 1, 100), torch.arange(10)
    save_file({"0": image, "1": label}, tmp_path / "a")
    save_file({"0": image + 0.01, "1": label}, tmp_path / "b")
    save_file({"0": image, "1": label.flip(0)}, tmp_path / "c")
    save_file({"0": image.flip(0), "1": label}, tmp_path / "d")
    assert proof.batches(tmp_path / "a", tmp_path / "b") == ""
    assert "integers of tensor 1" in proof.batches(tmp_path / "a", tmp_path / "c")
    assert "off by" in proof.batches(tmp_path / "a", tmp_path / "d")


def test_losses_that_are_not_finite_are_infinitely_far() -> None:
    assert proof.losses_at_equal_weights([1.0, 2.0], [1.0, float("nan")]) == float("inf")
    assert proof.curve_distance([1.0, 2.0], [1.0, float("nan")]) == float("inf")


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        ({"lr of group 0": 0.1, "clip_grad_norm": None}, ""),
        ({"lr of group 0": 0.1 + 1e-9, "clip_grad_norm": None}, ""),
        ({"lr of group 0": 0.05, "clip_grad_norm": None}, "lr of group 0 is 0.05 instead of 0.1"),
        ({"lr of group 0": 0.1, "clip_grad_norm": 1.0}, "clip_grad_norm is 1.0 instead of None"),
        ({"clip_grad_norm": None}, "lr of group 0 is None instead of 0.1"),
        ({"lr of group 0": 0.1, "clip_grad_norm": None, "nesterov": True}, "nesterov is True instead of None"),
    ],
)
def test_an_optimizer_that_updates_by_other_numbers(candidate: dict[str, object], sentence: str) -> None:
    assert proof.settings({"lr of group 0": 0.1, "clip_grad_norm": None}, candidate) == sentence
