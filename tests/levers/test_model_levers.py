"""What the levers of the model pillar change, and what they leave as it was."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchspeed
from torchspeed import Plan
from torchspeed.engine.build import build
from torchspeed.engine.evaluate import evaluate
from torchspeed.engine.step import make_step
from torchspeed.levers.model.activation_checkpointing import checkpoint_module, repeated_blocks
from torchspeed.levers.model.drop_cancelled_bias import drop_cancelled_biases
from torchspeed.levers.model.fused_loss import fuse_loss
from torchspeed.levers.model.pool_before_activation import pool_before_activation
from torchspeed.machine import Machine
from torchspeed.models import CNN, ResNet, SpeedNet, Transformer
from torchspeed.models.linear_cross_entropy import Terms, linear_cross_entropy
from torchspeed.models.norm_pairs import Pair
from torchspeed.run import Run

HERE = Machine.detect("cpu")
VOCABULARY, CONTEXT = 40_000, 8


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def job(model: Callable[[], nn.Module], **changes: Any) -> torchspeed.Job:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 3, 12, 12, generator=generator), torch.arange(16) % 10
    fields: dict[str, Any] = {
        "model": model,
        "train": (images, labels),
        "valid": (images, labels),
        "loss": nn.CrossEntropyLoss(),
        "optimizer": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1),
        "batch_size": 8,
    }
    return torchspeed.Job(**{**fields, **changes})


def language_job(model: Callable[[], nn.Module] | None = None, **changes: Any) -> torchspeed.Job:
    tokens = torch.randint(0, VOCABULARY, (4, CONTEXT), generator=torch.Generator().manual_seed(0))
    fields = {"train": (tokens, tokens), "valid": (tokens, tokens), "batch_size": 2, "loss": per_token}
    return job(model or language_model, **{**fields, **changes})


def language_model(**changes: Any) -> nn.Module:
    sizes: dict[str, Any] = {"context": CONTEXT, "width": 16, "depth": 3, "heads": 2, "dropout": 0.1}
    return Transformer(VOCABULARY, **{**sizes, **changes})


def per_token(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def made(wanted: torchspeed.Job, **options: Any) -> Run:
    return build(wanted, Plan.of(**options), HERE)


def stepped(run: Run, steps: int = 2) -> list[float]:
    step = make_step(run)
    torch.manual_seed(2)  # for dropout
    return [step(run.loader.batch(0, number)).item() for number in range(steps)]


def gradients(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Output, gradient of the input and of each parameter, with the generators at a fixed state."""
    torch.manual_seed(1)
    model.zero_grad()
    inputs = inputs.clone().requires_grad_(inputs.is_floating_point())
    output = model(inputs)
    output.square().sum().backward()
    found = [output.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return found if inputs.grad is None else [*found, inputs.grad]


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Functional(nn.Module):
    """Pools after ReLU in each way that people write."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(32, 10)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = self.pool(torch.relu(self.conv2(x)))
        x = self.conv3(x)
        x = self.relu(x)
        x = self.pool(x)
        if x.isnan().any():
            raise ValueError("not a number")
        return self.fc(F.dropout(x, 0.5, self.training).flatten(1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("make", "pairs"), [(Functional, 3), (CNN, 3), (lambda: ResNet(depth=18, width=8, stem="imagenet"), 1)]
)
def test_pooling_first_gives_the_same_bits(make: Any, pairs: int, memory_format: torch.memory_format) -> None:
    # Rounded inputs of few distinct values: windows with ties, and windows without anything positive.
    images = torch.randn(4, 3, 12, 12).round().to(memory_format=memory_format)
    written = make().to(memory_format=memory_format)
    changed = copy.deepcopy(written)
    assert pool_before_activation(changed) == pairs
    assert same_bits(gradients(written, images), gradients(changed, images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.5)], ids=lambda a: type(a).__name__)
def test_flat_activations_agree_on_ties(activation: nn.Module, dtype: torch.dtype) -> None:
    """Overlapping windows over few distinct values, most of them where the activation is flat."""
    inputs = (4 * torch.randn(8, 4, 15, 15)).round().div(2).to(dtype)
    written = nn.Sequential(activation, nn.MaxPool2d(3, 2, 1))
    changed = copy.deepcopy(written)
    assert pool_before_activation(changed) == 1
    assert same_bits(gradients(written, inputs), gradients(changed, inputs))


def test_the_activation_reads_a_quarter_after_pooling() -> None:
    model, seen = Functional(), []
    pool_before_activation(model)
    model.relu.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    model(torch.randn(2, 3, 12, 12))
    assert seen == [(2, 8, 2, 2)]


def test_a_rewritten_forward_keeps_modes_side_effects_and_tracebacks() -> None:
    model = Functional()
    pool_before_activation(model)
    images = torch.randn(2, 3, 12, 12)
    assert not torch.equal(model(images), model(images)), "dropout acts in training"
    model.eval()
    assert torch.equal(model(images), model(images)), "and not in evaluation"
    assert model.calls == 4
    with pytest.raises(ValueError, match="not a number") as caught:
        model(images * float("nan"))
    place = caught.traceback[-1]
    assert Path(place.path) == Path(__file__)
    assert "not a number" in str(place.statement)


def test_a_rewritten_model_is_copied_and_pickled() -> None:
    model = Functional()
    names = list(model.state_dict())
    pool_before_activation(model)
    assert list(model.state_dict()) == names
    copied = copy.deepcopy(model)
    assert copied.forward.__self__ is copied
    assert copied.forward.__func__ is model.forward.__func__
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.forward.__self__ is loaded
    assert same_bits(gradients(model, images := torch.randn(2, 3, 12, 12)), gradients(loaded, images))


class Watched(nn.Module):
    """Not to be touched: rounding makes ties, the activation is read twice, it acts in place on what is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        a = F.max_pool2d(torch.sigmoid(x), 2) + F.max_pool2d(F.leaky_relu(x), 2)
        b = F.relu(x)
        c = F.max_pool2d(b, 2)
        y = self.conv(x)
        d = self.pool(self.relu(y))
        values, _ = F.max_pool2d(F.relu(x), 2, return_indices=True)
        return a + c + d + values + b.mean() + y.mean()


def test_what_may_not_change_places_stays() -> None:
    assert pool_before_activation(Watched()) == 0


def test_a_sequential_that_somebody_watches_or_extends_stays_right() -> None:
    watched = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2))
    watched[1].register_forward_hook(lambda *_: None)
    assert pool_before_activation(watched) == 0
    grown = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2))
    assert pool_before_activation(grown) == 1
    grown.append(nn.Flatten())
    assert grown(torch.randn(2, 3, 4, 4)).shape == (2, 16)


def biased() -> nn.Module:
    """Biases that matter: in a Sequential, in functional form, before a linear layer's norm, and one without a norm."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
            self.conv = nn.Conv2d(8, 8, 3, bias=True)
            self.norm = nn.BatchNorm2d(8, momentum=0.3)
            self.hidden = nn.Linear(8, 16)
            self.hidden_norm = nn.BatchNorm1d(16)
            self.side = nn.Conv2d(8, 16, 1)
            self.side_norm = nn.BatchNorm2d(16)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.conv(self.stem(x))))
            side = self.side(x)
            x = self.hidden_norm(self.hidden(x.mean((2, 3))))
            return self.head(F.relu(x) + self.side_norm(side).mean((2, 3)) + side.mean((2, 3)))

    model = Net()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.bias.uniform_(-2, 2)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # as if it had been trained before
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    return model


def test_a_cancelled_bias_is_neither_added_nor_moved() -> None:
    wanted = job(biased)
    written, run = made(wanted), made(wanted, drop_cancelled_bias="on")
    assert run.applied == ["drop_cancelled_bias=on"]
    assert evaluate(run, wanted).loss == pytest.approx(evaluate(written, wanted).loss, rel=1e-5), "before any step"
    assert stepped(run, 1) == pytest.approx(stepped(written, 1), rel=1e-5)
    for name, parameter in run.model.named_parameters():
        if name in ("stem.0.bias", "conv.bias", "hidden.bias"):
            assert not parameter.any()
            assert parameter.grad is None
        else:
            other = written.model.get_parameter(name).grad
            assert torch.allclose(parameter.grad, other, rtol=1e-3, atol=1e-5), name
    as_written = biased().eval()
    as_written.load_state_dict(run.model.state_dict())
    images = torch.randn(4, 3, 12, 12)
    assert torch.allclose(as_written(images), run.model.eval()(images), atol=1e-5), "for the class as written too"


def test_weights_that_are_loaded_later_lose_their_bias_too() -> None:
    model, other = biased(), biased().eval()
    drop_cancelled_biases(model, [Pair("conv", "norm")])
    model.load_state_dict(other.state_dict())
    images = torch.randn(4, 3, 12, 12)
    assert torch.allclose(model.eval()(images), other(images), atol=1e-5)
    assert not model.conv.bias.any()


def test_a_norm_that_is_frozen_does_not_cancel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[1].eval()
    assert drop_cancelled_biases(model, [Pair("0", "1")]) == []


@pytest.mark.parametrize("make", [biased, CNN, lambda: ResNet(depth=8), SpeedNet])
def test_folded_norms_evaluate_the_same(make: Any) -> None:
    wanted = job(make)
    written, run = made(wanted), made(wanted, conv_bn_folding="on")
    assert run.applied == ["conv_bn_folding=on"]
    assert stepped(run) == stepped(written), "training is not touched"
    assert evaluate(run, wanted).loss == pytest.approx(evaluate(written, wanted).loss, rel=1e-5)
    names = list(run.model.state_dict())
    folded = run.evaluation_wrappers[0](run.model.eval())
    kinds = [type(module).__name__ for module in folded.modules()]
    assert "Identity" in kinds
    assert list(run.model.state_dict()) == names
    run.model.train()
    assert stepped(run) == stepped(written), "nor after an evaluation"


def test_a_folded_layer_has_a_bias_even_where_training_goes_without() -> None:
    wanted = job(biased)
    run = made(wanted, conv_bn_folding="on", drop_cancelled_bias="on")
    plain = made(wanted, drop_cancelled_bias="on")
    assert stepped(run) == stepped(plain)
    assert evaluate(run, wanted).loss == pytest.approx(evaluate(plain, wanted).loss, rel=1e-5)


@pytest.mark.parametrize("option", ["blocks", "half"])
def test_recomputed_blocks_give_the_same_bits_under_dropout(option: str) -> None:
    wanted = language_job()
    written, run = made(wanted), made(wanted, activation_checkpointing=option)
    assert run.applied == [f"activation_checkpointing={option}"]
    assert stepped(run) == stepped(written)
    assert list(run.model.state_dict()) == list(written.model.state_dict())
    pairs = zip(run.model.parameters(), written.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_recomputing_keeps_less() -> None:
    def kept(model: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            held = model(torch.ones(4, 64, 16))
        assert held.requires_grad
        return sum(sizes.values())

    def blocks() -> nn.Module:
        return nn.Sequential(
            *(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.GELU(), nn.Linear(64, 16)) for _ in range(4))
        )

    model = blocks()
    for block in repeated_blocks(model):
        checkpoint_module(block)
    assert kept(model) < kept(blocks()) / 3


def test_blocks_are_recomputed_with_the_attention_of_their_forward_pass() -> None:
    wanted = language_job(lambda: language_model(dropout=0.0))
    written, run = made(wanted, attention="math"), made(wanted, attention="math", activation_checkpointing="blocks")
    assert len(run.applied) == 2
    assert stepped(run) == stepped(written)


def test_blocks_with_running_statistics_are_left_alone() -> None:
    assert repeated_blocks(ResNet(depth=8)) == []
    assert "would move them twice" in made(job(lambda: ResNet(depth=8)), activation_checkpointing="blocks").skipped[0]


@pytest.mark.parametrize("terms", [Terms(), Terms(label_smoothing=0.1), Terms(7, 0.2, "sum")], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_and_loss_together_have_the_gradients_of_both(terms: Terms, bias: bool) -> None:
    hidden, layer = torch.randn(50, 6, requires_grad=True), nn.Linear(6, 11, bias=bias)
    target = torch.randint(0, 11, (50,))
    target[:9] = terms.ignore_index
    inputs = [hidden, *layer.parameters()]
    options = {
        "ignore_index": terms.ignore_index,
        "label_smoothing": terms.label_smoothing,
        "reduction": terms.reduction,
    }
    wanted = F.cross_entropy(layer(hidden), target, **options)
    loss = linear_cross_entropy(hidden, layer.weight, layer.bias, target, terms, rows=16)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * wanted, inputs), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_mean_over_no_target_is_as_in_pytorch() -> None:
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    loss = linear_cross_entropy(hidden, weight, None, torch.full((4,), -100))
    assert loss.isnan()
    assert not torch.autograd.grad(loss, hidden)[0].any()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "loss",
    [
        per_token,
        lambda logits, target: nn.CrossEntropyLoss()(logits.transpose(1, 2), target),
        lambda logits, target: F.cross_entropy(logits.view(-1, logits.size(-1)), target.view(-1), reduction="sum"),
        lambda logits, target: F.cross_entropy(logits[:, :-1].reshape(-1, logits.size(-1)), target[:, 1:].reshape(-1)),
        lambda logits, target: F.cross_entropy(logits.permute(1, 2, 0), target.T),
    ],
    ids=["flatten", "transpose", "view", "shifted", "permuted"],
)
def test_the_fused_loss_follows_the_logits_to_the_loss(loss: Any, tied: bool, autocast: bool) -> None:
    model = Transformer(300, context=CONTEXT, width=16, depth=1, heads=2, tied_embeddings=tied)
    weight = model.embedding.weight if model.head is None else model.head.weight
    batch = (torch.randint(0, 300, (3, CONTEXT)), torch.randint(0, 300, (3, CONTEXT)))
    found = []
    for compute in (plain := lambda model, batch: loss(model(batch[0]), batch[1])), fuse_loss(plain, weight):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = compute(model, batch)
        value.backward()
        found.append((value.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (written, expected), (fused, gradient) = found
    assert fused == pytest.approx(written, rel=1e-4)
    assert (gradient - expected).norm() < (0.02 if autocast else 1e-5) * expected.norm()


@pytest.mark.parametrize("option", ["linear", "loss"])
def test_the_fused_loss_trains_and_evaluates_the_same(option: str) -> None:
    wanted = language_job()
    written, run = made(wanted), made(wanted, fused_loss=option)
    assert run.applied == [f"fused_loss={option}"]
    assert stepped(run) == pytest.approx(stepped(written), rel=1e-5)
    assert evaluate(run, wanted).loss == pytest.approx(evaluate(written, wanted).loss, rel=1e-4)


def test_the_fused_loss_never_holds_the_logits() -> None:
    """All that autograd keeps of a step is smaller than the logits alone."""
    model = language_model(width=4)
    tokens = torch.randint(0, VOCABULARY, (64, CONTEXT))

    def largest(compute: Any) -> int:
        sizes = [0]

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            compute(model, (tokens, tokens))
        return max(sizes)

    def plain(model: nn.Module, batch: Any) -> Tensor:
        return per_token(model(batch[0]), batch[1])

    logits = tokens.numel() * VOCABULARY
    assert largest(plain) == logits
    assert largest(fuse_loss(plain, model.embedding.weight)) < logits / 10


def weighted() -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.ones(VOCABULARY))


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda logits, target: weighted()(logits.transpose(1, 2), target), "the loss weights its classes"),
        (lambda logits, target: logits.square().mean(), "calls cross_entropy 0 times"),
        (lambda logits, target: per_token(logits, target) + logits.mean(), "the logits are read by mean too"),
        (lambda logits, target: per_token(logits.tanh(), target), "not the output of a linear layer alone"),
        (lambda logits, target: F.cross_entropy(logits, logits.softmax(1).detach()), "probabilities"),
    ],
)
def test_other_losses_are_left_as_they_are(loss: Any, sentence: str) -> None:
    assert sentence in made(language_job(loss=loss), fused_loss="linear").skipped[0]


def test_few_classes_are_not_worth_it() -> None:
    assert "which cross no memory worth saving" in made(job(CNN), fused_loss="linear").skipped[0]


def test_attention_takes_the_kernel_that_was_asked_for() -> None:
    def kernels(option: str) -> set[str]:
        run = made(language_job(lambda: language_model(dropout=0.0)), attention=option)
        assert run.applied == [f"attention={option}"]
        with torch.profiler.profile() as profile:
            stepped(run, 1)
        return {event.key for event in profile.key_averages() if "scaled_dot_product" in event.key}

    assert any("flash" in name for name in kernels("flash"))
    assert not any("flash" in name for name in kernels("math"))


def test_attention_says_what_keeps_a_kernel_from_it() -> None:
    assert "do not support non-zero dropout" in made(language_job(), attention="flash").skipped[0]
    assert "does not call scaled_dot_product_attention" in made(job(CNN), attention="math").skipped[0]
    assert "a CPU has flash and math" in made(language_job(), attention="cudnn").skipped[0]


def test_attention_is_seen_inside_of_pytorchs_own_layers() -> None:
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    run = made(job(lambda: nn.Sequential(nn.Flatten(1, 2), layer, nn.Flatten(), nn.Linear(432, 10))), attention="math")
    assert run.applied == ["attention=math"]


@pytest.mark.parametrize(
    ("lever", "option", "model"),
    [
        ("attention", "math", language_model),
        ("activation_checkpointing", "blocks", language_model),
        ("pool_before_activation", "on", CNN),
        ("drop_cancelled_bias", "on", lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten())),
        ("conv_bn_folding", "on", None),
        ("fused_loss", "linear", None),
    ],
)
def test_inside_a_loop_of_ones_own_a_lever_does_what_it_can(lever: str, option: str, model: Any) -> None:
    run = made(job(model or CNN) if model is not language_model else language_job())
    run.holds_loop = False
    run.compute_loss = None  # type: ignore[assignment]
    apply = torchspeed.levers.REGISTRY[lever].apply
    if model is None:
        with pytest.raises(torchspeed.errors.NotApplicable, match="loop of your own"):
            apply(run, option)
        return
    apply(run, option)
    assert any("forward" in module.__dict__ for module in run.model.modules())


def test_looking_at_a_model_leaves_no_trace() -> None:
    wanted = job(lambda: nn.Sequential(biased(), nn.Dropout(0.5)))
    written, run = made(wanted), made(wanted)
    generator = torch.get_rng_state()
    for lever, option in (("attention", "math"), ("fused_loss", "loss")):
        with pytest.raises(torchspeed.errors.NotApplicable):
            torchspeed.levers.REGISTRY[lever].apply(run, option)
    assert torch.equal(torch.get_rng_state(), generator)
    assert stepped(run) == stepped(written)
    states = zip(run.model.state_dict().values(), written.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
