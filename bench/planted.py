"""A job with a known amount of idle time in each step, and levers that take it out: an honest one, and those that lie.

Every lie is as fast as the truth, so that nothing but the proof can tell them apart. ``register`` puts them
into the registry; ``planted_job`` does so in each process of a trial, where it is sent by name.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

import torchspeed
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.levers import REGISTRY
from torchspeed.machine import Machine
from torchspeed.run import Loader, Run, Step

SAMPLES, FEATURES, BATCH = 4_100, 64, 64  # the last batch is a small one
COMPILE_SECONDS = 6.0
EXTRA_BYTES = 1 << 30


class Net(nn.Module):
    """A perceptron whose forward pass idles for ``idle`` seconds."""

    def __init__(self, idle: float) -> None:
        super().__init__()
        self.idle = idle
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        if self.training and self.idle:
            end = time.perf_counter() + self.idle
            while time.perf_counter() < end:  # a sleep would be as long as the system likes
                pass
        return out


def planted_job(idle: float = 0.0005, epochs: float = 20) -> torchspeed.Job:
    """Four classes of points, learnable; ``idle`` seconds of each step are for nothing."""
    register()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
    labels = (inputs[:, 0] > 0).long() * 2 + (inputs[:, 1:4].sum(1) > 0).long()
    return torchspeed.Job(
        name="planted",
        model=lambda: Net(idle),
        train=(inputs, labels),
        valid=(inputs[:512], labels[:512]),
        loss=nn.CrossEntropyLoss(),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
        batch_size=BATCH,
        epochs=epochs,
    )


class _Planted(Lever):
    """What all have in common: the idle time is taken out, in part or whole."""

    pillar = "model"
    stage = Stage.STEP
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE})

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "on")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        """It applies to the planted job, which is the only one it is ever given."""


def take_out(run: Run) -> None:
    """The honest part: no idle time any more."""
    run.model.idle = 0.0  # type: ignore[assignment]


@final
class Same(_Planted):
    name = "planted_same"

    def apply(self, run: Run, option: Option) -> None:
        """Two identical plans: nothing is changed."""


@final
class Truth(_Planted):
    name = "planted_truth"
    guarantee = Guarantee.EXACT

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)


@final
class SkipsBackward(_Planted):
    """Every fourth step is a forward pass and nothing more."""

    name = "lie_skips_backward"

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)

        def wrap(step: Step) -> Step:
            count = 0

            def lying(batch: Any) -> Tensor:
                nonlocal count
                count += 1
                if count % 4:
                    return step(batch)
                run.optimizer.zero_grad()
                with torch.no_grad():
                    return run.compute_loss(run.model, batch)

            return lying

        run.step_wrappers.append(wrap)


class _Wrapped:
    """A loader whose batches go through ``change``."""

    def __init__(self, loader: Loader, change: Callable[[Iterator[Any]], Iterator[Any]], length: int) -> None:
        self._loader, self._change, self._length = loader, change, length

    def __len__(self) -> int:
        return self._length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        batches = self._change(self._loader.epoch(epoch, start))
        return (batch for _, batch in zip(range(start, self._length), batches, strict=False))


class _SaysMore(_Wrapped):
    """It has the length of the loader inside, whatever it gives."""

    def __len__(self) -> int:
        return len(self._loader)


@final
class DropsData(_Planted):
    """The last tenth of each epoch is never read, though the length says that it is."""

    name = "lie_drops_data"

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)
        length = len(run.loader)
        run.loader = _SaysMore(run.loader, lambda batches: batches, length - length // 10)


@final
class TooCoarse(_Planted):
    """Every layer's output is rounded to two bits of mantissa, and so are the gradients that come back."""

    name = "lie_too_coarse"

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)
        for module in run.model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda _, __, out: _Rounded.apply(out))  # type: ignore[no-untyped-call]


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.to(torch.float8_e5m2).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        scale = grads[0].abs().max().clamp(min=1e-12)
        return (grads[0] / scale).to(torch.float8_e5m2).to(grads[0].dtype) * scale


def _stale(batches: Iterator[Any]) -> Iterator[Any]:
    for number, batch in enumerate(batches):
        if number % 5 != 2:
            kept = batch
        yield kept if number else batch


def _swapped(batches: Iterator[Any]) -> Iterator[Any]:
    """Neighbouring samples change places within each batch."""
    for inputs, labels in batches:
        order = torch.arange(len(inputs)).reshape(-1, 2).flip(1).reshape(-1)
        yield inputs[order], labels[order]


@final
class StaleBatches(_Planted):
    """Every fifth batch is the one before once more."""

    name = "lie_stale_batches"

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)
        run.loader = _Wrapped(run.loader, _stale, len(run.loader))


@final
class Reorders(_Planted):
    """The same samples in each batch in another order, and it says EXACT."""

    name = "lie_reorders"
    guarantee = Guarantee.EXACT

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)
        run.loader = _Wrapped(run.loader, _swapped, len(run.loader))


@final
class FastAtFirst(_Planted):
    """Idle again after twenty steps."""

    name = "lie_fast_at_first"

    def apply(self, run: Run, option: Option) -> None:
        idle = run.model.idle
        take_out(run)

        def wrap(step: Step) -> Step:
            count = 0

            def lying(batch: Any) -> Tensor:
                nonlocal count
                count += 1
                if count > 20:
                    run.model.idle = idle
                return step(batch)

            return lying

        run.step_wrappers.append(wrap)


@final
class NeverPaysBack(_Planted):
    """Honest, but its first step takes longer than all of the steps save."""

    name = "lie_never_pays_back"
    guarantee = Guarantee.EXACT

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)

        def wrap(step: Step) -> Step:
            compiled = False

            def compiling(batch: Any) -> Tensor:
                nonlocal compiled
                if not compiled:
                    compiled = True
                    time.sleep(COMPILE_SECONDS)
                return step(batch)

            return compiling

        run.step_wrappers.append(wrap)


@final
class TooMuchMemory(_Planted):
    """Honest, but it holds a gigabyte."""

    name = "lie_too_much_memory"
    guarantee = Guarantee.EXACT
    _held: ClassVar[list[Tensor]] = []

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)
        self._held.append(torch.ones(EXTRA_BYTES // 4))


@final
class SkipsTheLastBatch(_Planted):
    """A batch that is smaller than the others is looked at and not learned from."""

    name = "lie_skips_the_last_batch"

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)

        def wrap(step: Step) -> Step:
            def lying(batch: Any) -> Tensor:
                if len(batch[0]) == BATCH:
                    return step(batch)
                run.optimizer.zero_grad()
                with torch.no_grad():
                    return run.compute_loss(run.model, batch)

            return lying

        run.step_wrappers.append(wrap)


@final
class FreezesABias(_Planted):
    """A layer so small that nobody would miss it is no longer trained."""

    name = "lie_freezes_a_bias"

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)
        *_, bias = run.model.parameters()
        bias.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]


@final
class FixedRate(_Planted):
    """The learning rate of the first step, whatever the schedule says afterwards."""

    name = "lie_fixed_rate"

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)
        rate = run.optimizer.param_groups[0]["lr"]

        def wrap(step: Step) -> Step:
            def lying(batch: Any) -> Tensor:
                said = [group["lr"] for group in run.optimizer.param_groups]
                for group in run.optimizer.param_groups:
                    group["lr"] = rate
                loss = step(batch)
                for group, one in zip(run.optimizer.param_groups, said, strict=True):
                    group["lr"] = one
                return loss

            return lying

        run.step_wrappers.append(wrap)


@final
class EvaluatesHalf(_Planted):
    """Half of the validation data is enough."""

    name = "lie_evaluates_half"
    guarantee = Guarantee.EXACT

    def apply(self, run: Run, option: Option) -> None:
        take_out(run)
        assert run.valid is not None
        run.valid = _Wrapped(run.valid, lambda batches: batches, len(run.valid) // 2)


LIES = (
    SkipsBackward(),
    DropsData(),
    TooCoarse(),
    StaleBatches(),
    Reorders(),
    FastAtFirst(),
    NeverPaysBack(),
    TooMuchMemory(),
    SkipsTheLastBatch(),
    FreezesABias(),
    FixedRate(),
    EvaluatesHalf(),
)
PLANTED = (Same(), Truth(), *LIES)


def register() -> None:
    """Put the planted levers into the registry of this process."""
    REGISTRY.update({lever.name: lever for lever in PLANTED})
