"""What a run did, kept so that two runs can be held against each other: the stream of batches, losses and gradients
at equal weights, and how far the first steps moved the weights.

All of it goes through the loader and the very step that are timed, so that nothing can be right here and wrong there.
Gradients are taken at the weights of the reference, on the first batches of epoch 0, with the generators set alike:
after some steps two runs that differ by a rounding are far apart, and their gradients no longer say anything.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from torchspeed.batch import batch_length, map_tensors
from torchspeed.engine.build import seed_everything
from torchspeed.engine.evaluate import evaluating, sums
from torchspeed.engine.step import to_device
from torchspeed.fingerprint import fingerprint
from torchspeed.job import Job
from torchspeed.measure.stepper import Stepper
from torchspeed.run import Loader, Run

BATCHES = 8
EVALUATED = 3
_NO_MATTER_HOW = {"params", "foreach", "fused", "capturable", "differentiable", "param_names", "initial_lr"}
_SEED = 20_000


@dataclass(frozen=True)
class Glimpse:
    """One batch of the stream. ``changed``: its content was no longer the same after the next one had been loaded."""

    epoch: int
    number: int
    samples: int
    digest: str
    changed: bool


@dataclass(frozen=True)
class Stream:
    """Parts of the stream of batches: the beginning, the middle and the very end of epoch 0, the beginning of epoch 1.

    after_the_middle: batches from the middle of epoch 0 to its end, as many as were looked at and then counted by
    the loader's own iterator only at the end of the epoch.
    """

    length: int
    samples: int
    glimpses: tuple[Glimpse, ...]
    batches_at_the_end: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Stream":
        return cls(**{**value, "glimpses": tuple(Glimpse(**one) for one in value["glimpses"])})


@dataclass(frozen=True)
class Steps:
    """What steps from equal weights did: their losses, and how far each moved the weights.

    still: how far the weights moved with all learning rates at zero.
    """

    losses: tuple[float, ...]
    distances: tuple[float, ...]
    still: float

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Steps":
        return cls(tuple(value["losses"]), tuple(value["distances"]), value["still"])


def places(length: int) -> list[tuple[int, int, int]]:
    """(epoch, first batch, how many) to look at in epochs of ``length`` batches; one of them reads to the end."""
    end = max(0, length - 3)
    wanted = [(0, 0, min(4, length)), (0, length // 2, min(2, length - length // 2)), (0, end, length - end)]
    return [*wanted, (1, 0, min(2, length))]


def stream(loader: Loader, length: int, folder: Path) -> Stream:
    """What ``loader`` gives at the places of an epoch of ``length`` batches; the first of each goes to ``folder``."""
    glimpses, at_the_end = [], 0
    for epoch, first, count in places(length):
        read_to_the_end = epoch == 0 and first + count == length and first >= length - 3
        batches = iter(loader.epoch(epoch, first)) if first < len(loader) else iter(())
        found: list[Any] = []
        for number, batch in enumerate(batches):
            if number == 0:
                save_file(_tensors(batch), folder / f"batch-{epoch}-{first}.safetensors")
            found.append((batch, fingerprint(batch)))
            if len(found) == (count + 8 if read_to_the_end else count):  # more than there should be is seen as well
                break
        if read_to_the_end:
            at_the_end = len(found)
        for number, (batch, digest) in enumerate(found[:count]):
            changed = fingerprint(batch) != digest
            glimpses.append(Glimpse(epoch, first + number, batch_length(batch), digest, changed))
        del batches
    return Stream(len(loader), loader.samples, tuple(glimpses), at_the_end)


def gradients(
    stepper: Stepper, weights: Path, folder: Path, *, seed: int = 0, rounded: bool = False, count: int = BATCHES
) -> Steps:
    """Steps on the first batches and on the last one, each from ``weights`` with an optimizer that remembers nothing.

    Gradients go to ``folder/gradient-K``. A parameter that got no gradient is not in the file. ``seed`` is that of the
    generators, for dropout and its like.
    rounded: weights and batches are rounded to bfloat16 before, which shows how much a rounding matters here.
    """
    run = stepper.run
    start = load_file(weights, device=str(run.device))
    nearby = {name: _rounded(tensor) for name, tensor in start.items()} if rounded else start
    losses, distances = [], []
    with dropout_off(run.model):
        for number, (place, batch) in enumerate(_batches(run.loader, count)):
            put(run.model, nearby)
            run.optimizer.zero_grad()
            _forget(run.optimizer)
            given = map_tensors(batch, _rounded) if rounded else batch
            seed_everything(_SEED + 100 * seed + number)
            losses.append(float(stepper.take(given, (0, place))))
            distances.append(_distance(run.model, nearby))
            save_file(_gradients(run.model), folder / f"gradient-{number}.safetensors")
        put(run.model, start)
        _forget(run.optimizer)
        with _no_learning_rate(run):
            stepper.take(batch, (0, place))
    still = _distance(run.model, start)
    put(run.model, start)
    return Steps(tuple(losses), tuple(distances), still)


def evaluation(run: Run, job: Job, weights: Path) -> dict[str, Any] | None:
    """Sums of metric and loss on the first batches of the validation data and on the last, at ``weights``."""
    if run.valid is None:
        return None
    put(run.model, load_file(weights, device=str(run.device)))
    with evaluating(run):
        model = run.model
        for wrap in run.evaluation_wrappers:
            model = wrap(model)
        found = [
            sums(run, job, model, to_device(batch, run.device)).tolist() for _, batch in _batches(run.valid, EVALUATED)
        ]
    return {"length": len(run.valid), "samples": run.valid.samples, "sums": found}


def _batches(loader: Loader, count: int) -> Iterator[tuple[int, Any]]:
    """(number, batch) of the first ``count`` - 1 batches of epoch 0 and of its last, which may be a smaller one."""
    length = len(loader)
    yield from zip(range(min(count, length) - 1), loader.epoch(0), strict=False)
    for batch in loader.epoch(0, length - 1):
        yield length - 1, batch
        return


def _forget(optimizer: Optimizer) -> None:
    """Momenta and counters at zero, in place: what an optimizer remembers depends on the way that it came."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                value.zero_()
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                state[name] = type(value)(0)


@contextmanager
def _no_learning_rate(run: Run) -> Iterator[None]:
    """Learning rates that are zero, so that a step which moves the weights has another rate than it says."""
    rates = [(group, group["lr"]) for group in run.optimizer.param_groups if "lr" in group]
    kept = [rate.clone() if isinstance(rate, Tensor) else rate for _, rate in rates]
    for group, rate in rates:
        if isinstance(rate, Tensor):
            rate.zero_()
        else:
            group["lr"] = 0.0
    try:
        yield
    finally:
        for (group, rate), value in zip(rates, kept, strict=True):
            if isinstance(rate, Tensor):
                rate.copy_(value)
            else:
                group["lr"] = value


def settings(run: Run) -> dict[str, Any]:
    """The numbers that the update of the weights depends on, by group of parameters, and the clipping."""
    found: dict[str, Any] = {"clip_grad_norm": run.clip_grad_norm}
    for number, group in enumerate(run.optimizer.param_groups):
        for name, value in group.items():
            plain = value.tolist() if isinstance(value, Tensor) else value
            if name not in _NO_MATTER_HOW and isinstance(plain, (bool, int, float, str, tuple)):
                found[f"{name} of group {number}"] = list(plain) if isinstance(plain, tuple) else plain
    return found


def save_weights(run: Run, path: Path) -> None:
    """Parameters and buffers by their names, the same tensor under one name only."""
    save_file(_weights(run.model), path)


def put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy ``weights`` in place into the parameters and buffers of those names."""
    with torch.no_grad():
        for name, tensor in _named(model):
            into = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            if name in weights and weights[name].shape == into.shape:
                into.copy_(weights[name])


@contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """Layers of dropout let everything through, so that what they draw does not hide what else differs."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: _plain(tensor) for name, tensor in _named(model) if tensor.layout == torch.strided}


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            dense = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            found[name] = _plain(dense)
    return found


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().to(tensor.dtype) if tensor.is_floating_point() else tensor


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).contiguous().clone()


def _distance(model: nn.Module, weights: dict[str, Tensor]) -> float:
    """How far the parameters are from ``weights``."""
    squares = 0.0
    for name, parameter in model.named_parameters():
        now = torch.view_as_real(parameter.detach()) if parameter.is_complex() else parameter.detach()
        if name in weights and weights[name].shape == now.shape:
            squares += (now.double() - weights[name].double()).square().sum().item()
    return math.sqrt(squares) if math.isfinite(squares) else math.inf


def _tensors(batch: Any) -> dict[str, Tensor]:
    found: list[Tensor] = []
    map_tensors(batch, found.append)
    return {str(number): _plain(tensor) for number, tensor in enumerate(found)}
