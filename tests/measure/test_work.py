"""The work of a step is what one counts by hand, and counting it leaves no trace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torchspeed
from torchspeed.engine.build import build
from torchspeed.engine.state import capture, digest
from torchspeed.engine.step import make_step
from torchspeed.errors import NotApplicable
from torchspeed.machine import Machine
from torchspeed.measure.limits import Limits
from torchspeed.measure.traffic import stored_bytes
from torchspeed.measure.work import ModuleWork, StepWork, Work, count_step
from torchspeed.run import Run

FLOAT = 4  # bytes
LIMITS = Limits((("float32", 1e9), ("bfloat16", 4e9)), 1e9, (), None, None, 1e-6, 1, "")


def a_run(model: Callable[[], nn.Module], inputs: Tensor, step: Any = None, **changes: Any) -> Run:
    """A run whose only batch is ``inputs``; its loss is the sum of what the model gives."""
    job = torchspeed.Job(
        name="work",
        model=model,
        train=(inputs, torch.zeros(len(inputs), dtype=torch.long)),
        step=step or (lambda model, batch: model(batch[0]).sum()),
        optimizer=changes.pop("optimizer", lambda parameters: torch.optim.SGD(parameters, lr=0.1)),
        batch_size=len(inputs),
        **changes,
    )
    return build(job, torchspeed.Plan(), Machine.detect("cpu"))


def counted(model: Callable[[], nn.Module], inputs: Tensor, **changes: Any) -> StepWork:
    run = a_run(model, inputs, **changes)
    return count_step(run, run.loader.batch(0, 0))


def module(work: StepWork, name: str) -> ModuleWork:
    return next(part for part in work.modules if part.name == name)


def test_a_linear_layer_moves_its_tensors_once_per_product() -> None:
    rows, inner, outer = 8, 32, 16
    work = counted(lambda: nn.Sequential(nn.Linear(inner, inner), nn.Linear(inner, outer)), torch.randn(rows, inner))
    layer = module(work, "1")
    assert layer.forward.flops == (("float32", 2 * rows * inner * outer),)
    assert layer.forward.bytes == FLOAT * (rows * inner + inner * outer + outer + rows * outer)
    assert layer.forward.operations == 1
    # the gradient of the sum is one number, expanded; each of two products reads it and writes what it is for
    of_input = FLOAT * (1 + inner * outer + rows * inner)
    of_weight = FLOAT * (1 + rows * inner + inner * outer)
    of_bias = FLOAT * (1 + outer)
    assert layer.backward.total_flops == 2 * layer.forward.total_flops
    assert layer.backward.bytes == of_input + of_weight + of_bias


def test_a_first_layer_needs_no_gradient_of_its_input() -> None:
    work = counted(
        lambda: nn.Sequential(nn.Linear(32, 32), nn.ReLU(inplace=True), nn.Linear(32, 16)), torch.randn(8, 32)
    )
    assert module(work, "0").backward.total_flops == module(work, "0").forward.total_flops == 2 * 8 * 32 * 32
    assert module(work, "1").forward.operations == module(work, "1").backward.operations == 1
    assert module(work, "1").forward.bytes == module(work, "1").backward.bytes == 0


def test_convolutions_count_each_weight_at_each_place() -> None:
    def net() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4),
            nn.ConvTranspose2d(16, 4, 2, stride=2),
        )

    work = counted(net, torch.randn(2, 3, 16, 16))
    assert module(work, "0").forward.total_flops == 2 * 2 * 16 * 16 * 9 * 3 * 8
    assert module(work, "0").backward.total_flops == module(work, "0").forward.total_flops
    assert module(work, "3").forward.total_flops == 2 * 2 * 4 * 4 * 9 * 2 * 16
    assert module(work, "3").backward.total_flops == 2 * module(work, "3").forward.total_flops
    assert module(work, "4").forward.total_flops == 2 * 2 * 4 * 4 * 2 * 2 * 16 * 4
    assert module(work, "4").backward.total_flops == 2 * module(work, "4").forward.total_flops
    # pooling reads what it pools, writes a quarter of it, and going back does the opposite
    assert module(work, "2").forward.bytes == module(work, "2").backward.bytes == FLOAT * 2 * 8 * (16 * 16 + 8 * 8)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        split = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*split, is_causal=self.causal)
        return self.join(seen.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("causal", [False, True])
def test_a_transformer_block_attends_to_what_it_sees(causal: bool) -> None:
    batch, length, width, heads = 2, 8, 16, 4

    def block() -> nn.Module:
        return nn.Sequential(
            nn.LayerNorm(width), Attention(width, heads, causal), nn.Linear(width, 4 * width), nn.GELU()
        )

    work = counted(block, torch.randn(batch, length, width))
    pairs = length * (length + 1) // 2 if causal else length * length
    attention = 2 * batch * pairs * 2 * width
    assert module(work, "1").forward.total_flops == attention
    assert module(work, "1").backward.total_flops == attention * 5 / 2
    linear = 2 * batch * length * width * (3 * width + width + 4 * width)
    assert work.forward.total_flops == attention + linear
    assert work.backward.total_flops == attention * 5 / 2 + 2 * linear


def test_a_recurrent_layer_meets_its_weights_at_each_step() -> None:
    steps, batch, inputs, hidden = 5, 3, 8, 16
    forward = 2 * steps * batch * 2 * (4 * hidden * (inputs + hidden) + 4 * hidden * (2 * hidden + hidden))
    work = counted(
        lambda: nn.LSTM(inputs, hidden, num_layers=2, bidirectional=True, batch_first=True),
        torch.randn(batch, steps, inputs),
        step=lambda model, batch: model(batch[0])[0].sum(),
    )
    assert work.forward.total_flops == forward
    assert work.backward.total_flops == 2 * forward


def test_an_embedding_reads_the_rows_that_are_looked_up() -> None:
    work = counted(lambda: nn.Embedding(1000, 16), torch.randint(0, 1000, (2, 5)))
    assert module(work, "").forward.bytes == 2 * FLOAT * 2 * 5 * 16


def test_what_tensors_share_counts_once() -> None:
    table = torch.zeros(100, 8)
    assert stored_bytes([table, table[:50], table.t()]) == FLOAT * 800
    assert stored_bytes(table[0].expand(50, 8)) == FLOAT * 8
    assert stored_bytes([table.long(), table.bool(), None, 3]) == 0


def test_adam_reads_four_numbers_per_weight_and_writes_three() -> None:
    numbers = 32 * 16 + 16
    work = counted(lambda: nn.Linear(32, 16), torch.randn(4, 32), optimizer=torch.optim.Adam)
    counts_of_steps = 2 * 2 * FLOAT
    assert work.optimizer.bytes == 7 * FLOAT * numbers + counts_of_steps
    clipped = counted(lambda: nn.Linear(32, 16), torch.randn(4, 32), optimizer=torch.optim.Adam, clip_grad_norm=1.0)
    assert clipped.optimizer.bytes == work.optimizer.bytes + FLOAT * numbers


def test_an_optimizer_that_multiplies_matrices_is_seen_to() -> None:
    work = counted(
        lambda: nn.Linear(32, 16), torch.randn(4, 32), optimizer=torchspeed.optim.optimizer("muon", learning_rate=0.01)
    )
    assert work.optimizer.total_flops > 0


def test_autocast_multiplies_in_its_own_format() -> None:
    run = a_run(lambda: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)), torch.randn(4, 32))
    run.step_contexts.append(lambda: torch.autocast("cpu", torch.bfloat16))
    work = count_step(run, run.loader.batch(0, 0))
    assert work.forward.flops == (("bfloat16", 2 * 4 * (32 * 64 + 64 * 8)),)
    assert [name for name, _ in work.backward.flops] == ["bfloat16"]


class Twice(nn.Module):
    """One layer called twice, another under two names, a third computed again going back."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once = nn.Linear(8, 8), nn.Linear(8, 8)
        self.alias = self.once
        self.again = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        again: Tensor = checkpoint(self.again, self.alias(x), use_reentrant=False)
        return again


def test_backward_work_goes_to_the_module_that_went_forward() -> None:
    work = counted(Twice, torch.randn(4, 8))
    product = 2 * 4 * 8 * 8
    assert [part.name for part in work.modules] == ["", "twice", "once", "again.0", "again.1"]
    assert module(work, "twice").forward.total_flops == 2 * product
    assert module(work, "twice").backward.total_flops == 3 * product
    assert module(work, "once").backward.total_flops == 2 * product
    assert module(work, "again.0").backward.total_flops == 3 * product  # the forward once more, and its gradients
    assert module(work, "").backward.operations == 2  # its two relu


def test_modules_add_up_to_all_but_the_loss() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    work = counted(lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU()), torch.randn(4, 8), step=loss)
    for part in ("forward", "backward"):
        modules = sum((getattr(each, part) for each in work.modules), start=Work())
        whole = getattr(work, part)
        assert modules.total_flops == whole.total_flops
        logits = FLOAT * 4 * 16
        assert whole.bytes - modules.bytes == 2 * logits  # cross-entropy reads them and writes their softmax
        assert 0 < whole.operations - modules.operations <= 8
    assert work.total.total_flops == work.forward.total_flops + work.backward.total_flops


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x.mul_(2.0)))))


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "schedulefree"])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_counting_changes_nothing(optimizer: str, steps_before: int) -> None:
    if optimizer == "schedulefree":
        pytest.importorskip("schedulefree", reason="the extra 'optim' is not installed")
    run = a_run(
        Everything,
        torch.randn(6, 8),
        optimizer=torchspeed.optim.optimizer(optimizer, learning_rate=0.01),
        schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
    )
    run.scaler = torch.amp.GradScaler("cpu")
    batch = run.loader.batch(0, 0)
    step = make_step(run)
    for _ in range(steps_before):
        step(run.loader.batch(0, 0))
    states = {id(key): list(state) for key, state in run.optimizer.state.items()}
    calls: list[object] = []
    run.optimizer.register_step_post_hook(lambda *arguments: calls.append(arguments))
    tensors = [*run.model.parameters(), *run.model.buffers()]
    gradients = [parameter.grad for parameter in run.model.parameters()]
    copies = [None if gradient is None else gradient.clone() for gradient in gradients]
    inputs, before = batch[0].clone(), digest(capture(run, {}))

    assert count_step(run, batch).total.total_flops > 0

    assert digest(capture(run, {})) == before
    assert all(a is b for a, b in zip(tensors, [*run.model.parameters(), *run.model.buffers()], strict=True))
    for parameter, gradient, copy in zip(run.model.parameters(), gradients, copies, strict=True):
        assert parameter.grad is gradient
        assert copy is None or torch.equal(gradient, copy)
    assert torch.equal(batch[0], inputs)
    assert calls == []
    assert {id(key): list(state) for key, state in run.optimizer.state.items()} == states


def test_a_step_that_raises_leaves_the_run_as_it_was() -> None:
    run = a_run(Everything, torch.randn(6, 8))
    before = digest(capture(run, {}))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        count_step(run, (torch.ones(6, 9), None))
    assert digest(capture(run, {})) == before
    assert count_step(run, run.loader.batch(0, 0)).total.total_flops > 0


def test_what_is_compiled_is_counted_as_written() -> None:
    run = a_run(lambda: Attention(8, 2, causal=False), torch.randn(2, 4, 8), optimizer=torch.optim.Adam)
    batch = run.loader.batch(0, 0)
    written = count_step(run, batch)
    run.model.compile(backend="eager", fullgraph=True)
    run.compute_loss = torch.compile(run.compute_loss, backend="eager", fullgraph=True)
    compiled = run.model._compiled_call_impl
    make_step(run)(batch)
    assert count_step(run, batch) == written
    assert run.model._compiled_call_impl is compiled is not None


def test_micro_batches_meet_the_weights_each() -> None:
    run = a_run(lambda: nn.Linear(8, 8), torch.randn(4, 8))
    whole = count_step(run, run.loader.batch(0, 0))
    run.micro_batches = 2
    pieces = count_step(run, run.loader.batch(0, 0))
    assert pieces.forward.total_flops == whole.forward.total_flops
    assert pieces.forward.bytes > whole.forward.bytes
    assert pieces.optimizer.bytes == whole.optimizer.bytes


def test_a_loop_that_is_not_ours_is_not_stepped() -> None:
    run = a_run(lambda: nn.Linear(8, 8), torch.randn(4, 8))
    run.holds_loop = False
    with pytest.raises(NotApplicable, match="loop"):
        count_step(run, run.loader.batch(0, 0))


def test_a_limit_is_a_sum_over_operations() -> None:
    multiplies, moves = Work((("bfloat16", 8e9, 1e6, 1),)), Work((("", 0.0, 5e8, 2),))
    assert multiplies.limit_seconds(LIMITS) == pytest.approx(2.0)
    assert moves.limit_seconds(LIMITS) == pytest.approx(1.0)
    both = multiplies + moves
    assert both.limit_seconds(LIMITS) == pytest.approx(3.0)
    assert (both + both).limit_seconds(LIMITS) == pytest.approx(6.0)
    assert (both.total_flops, both.bytes, both.operations) == (8e9, 1e6 + 1e9, 3)
    assert both.compute_seconds(LIMITS) == pytest.approx(2.0)
    assert both.memory_seconds(LIMITS) == pytest.approx(1.001)
