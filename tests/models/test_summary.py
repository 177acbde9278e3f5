"""The summary says what a model costs and leaves the model alone."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from torchspeed.errors import JobError
from torchspeed.models import CNN, RNN, ResNet, Transformer, summary
from torchspeed.models.transformer import Attention


def test_a_convolution_costs_two_flops_per_multiply_add() -> None:
    model = nn.Conv2d(6, 10, (3, 5), stride=2, padding=1, groups=2, bias=False)
    result = summary(model, torch.randn(4, 6, 17, 15))
    _, _, height, width = result[""].output_shape
    assert (height, width) == (9, 7)
    assert result.total.flops == 2 * 4 * 10 * height * width * (6 // 2) * 3 * 5
    assert result.total.parameters == 10 * 3 * 3 * 5


def test_a_linear_layer_costs_two_flops_per_multiply_add() -> None:
    result = summary(nn.Linear(7, 5), torch.randn(4, 3, 7))
    assert result.total.flops == 2 * 4 * 3 * 7 * 5
    assert result[""].output_shape == (4, 3, 5)


def test_attention_costs_its_two_products_and_is_charged_apart_from_its_layers() -> None:
    batch, length, width = 2, 24, 16
    result = summary(Attention(width, heads=4, dropout=0.0, bias=False), torch.randn(batch, length, width))
    assert result["qkv"].total.flops == 2 * batch * length * width * 3 * width
    assert result["out"].total.flops == 2 * batch * length * width * width
    assert result[""].own.flops == 2 * (2 * batch * length * length * width)


@pytest.mark.parametrize(("kind", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers_cost_their_matrices_at_every_step(kind: str, gates: int, directions: int) -> None:
    features, width, batch, length = 3, 8, 2, 6
    model = RNN(kind, features=features, classes=5, width=width, depth=2, bidirectional=directions == 2)
    first = gates * width * (features + width)
    second = gates * width * (directions * width + width)
    result = summary(model, torch.randn(batch, length, features))
    assert result["layers"].total.flops == 2 * batch * length * directions * (first + second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_model_costs_the_same_flops() -> None:
    state = torch.cuda.get_rng_state()
    for model, example in (
        (RNN("lstm", features=3, classes=5, width=16, bidirectional=True), torch.randn(2, 6, 3)),
        (Transformer(11, context=16, width=64, depth=2, heads=2, dropout=0.1), torch.randint(11, (2, 16))),
        (ResNet(depth=8), torch.randn(2, 3, 32, 32)),
    ):
        expected = summary(model, example).total.flops
        assert summary(model.cuda(), example.cuda()).total.flops == expected
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_resnet50_costs_the_published_4_gigaflops_of_multiply_adds() -> None:
    with torch.device("meta"):
        model = ResNet(3, 1000, depth=50, width=64, stem="imagenet")
        total = summary(model, torch.randn(1, 3, 224, 224)).total
    assert total.parameters == 25_557_032
    assert total.flops / 2 == pytest.approx(4.09e9, rel=0.001)


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (CNN(width=8), torch.randn(2, 3, 16, 16)),
        (ResNet(depth=8, width=8), torch.randn(2, 3, 16, 16)),
        (RNN(vocabulary=11, width=8), torch.randint(11, (2, 6))),
        (Transformer(11, context=8, width=16, depth=2, heads=2), torch.randint(11, (2, 6))),
    ],
    ids=["cnn", "resnet", "rnn", "transformer"],
)
def test_a_module_costs_its_own_work_and_that_of_its_children(model: nn.Module, example: Tensor) -> None:
    result = summary(model, example)
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        expected = result[name].own
        for child, _ in module.named_children():
            expected += result[prefix + child].total
        assert result[name].total == expected
    assert result.total.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert result.total.flops > 0
    assert result.total.activation_bytes > 0


def test_activations_are_what_autograd_keeps_and_each_is_counted_once() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4), nn.Sigmoid())
    result = summary(model, torch.randn(8, 6))
    kept = {module.name: module.own.activation_bytes for module in result.modules}
    # ReLU keeps its output, which is also the input that the next layer keeps; the example is no activation.
    assert kept == {"": 0, "0": 0, "1": 8 * 10 * 4, "2": 0, "3": 8 * 4 * 4}


def test_frozen_layers_keep_nothing() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).requires_grad_(False)
    assert summary(model, torch.randn(8, 6)).total.activation_bytes == 0
    model[2].requires_grad_(True)
    assert summary(model, torch.randn(8, 6)).total.activation_bytes == 8 * 10 * 4


def test_autocast_halves_the_activations_of_linear_layers() -> None:
    model, example = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), torch.randn(32, 64)
    weights = 64 * 64 * 2 * 2  # the bfloat16 copies of both, kept for the backward pass too
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = summary(model, example)
    assert result["1"].own.activation_bytes == 32 * 64 * 2
    assert result.total.activation_bytes <= weights + 2 * 32 * 64 * 2


class Reuse(nn.Module):
    """Calls one layer three times, under two names, and ties a parameter of another to it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8, bias=False)
        self.same = nn.Sequential(self.a)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.a.weight
        self.never = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.tied(self.same(self.a(self.a(x)))) + y


def test_shared_modules_and_parameters_count_once_and_calls_add_up() -> None:
    result = summary(Reuse(), (torch.randn(2, 8), torch.randn(2, 8)))
    assert [module.name for module in result.modules] == ["", "a", "same", "tied", "never"]
    assert result["a"].calls == 3
    assert result["a"].total.flops == 3 * 2 * 2 * 8 * 8
    assert result["same"].total.flops == 0
    assert result["tied"].total == dataclasses.replace(result["tied"].own, flops=2 * 2 * 8 * 8, parameters=0)
    assert result.total.parameters == 8 * 8 + 3 * 4
    assert result.total.flops == 4 * 2 * 2 * 8 * 8
    assert (result["never"].calls, result["never"].output_shape) == (0, None)


class Restless(nn.Module):
    """Everything that a forward pass may touch: statistics, a generator, its input, hooks, gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return self.dropout(self.norm(self.conv(self.relu(x))))


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_model_is_left_as_it_was(training: bool, fails: bool) -> None:
    model = Restless().train(training)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    model.norm.eval()  # a mode of its own
    calls: list[str] = []
    model.conv.register_forward_hook(lambda *_: calls.append("conv"))
    example = torch.randn(2, 5 if fails else 3, 8, 8)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    addresses = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
    kept, generator = example.clone(), torch.get_rng_state()

    if fails:
        with pytest.raises(RuntimeError):
            summary(model, example)
    else:
        summary(model, example)

    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == addresses
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [module.training for module in model.modules()] == modes
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert not any(m._forward_hooks_always_called for m in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(example, kept)


def test_the_surrounding_gradient_mode_changes_nothing() -> None:
    model, example = CNN(width=8), torch.randn(2, 3, 8, 8)
    expected = summary(model, example)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert summary(model, example) == expected
            assert torch.is_grad_enabled() is False
    with torch.inference_mode():
        assert summary(model, torch.randn(2, 3, 8, 8)) == expected


def test_evaluation_keeps_less_than_training() -> None:
    model, example = CNN(width=8, dropout=0.5), torch.randn(2, 3, 8, 8)
    training = summary(model, example).total
    evaluation = summary(model.eval(), example).total
    assert evaluation.activation_bytes < training.activation_bytes
    assert evaluation.flops == training.flops


def test_the_table_is_aligned_and_names_every_module() -> None:
    text = str(summary(CNN(width=8, depth=1), torch.randn(2, 3, 8, 8)))
    header, _, *rows, _, _ = text.splitlines()
    assert header.split() == ["module", "class", "output", "parameters", "FLOPs", "activations"]
    assert [row.split()[:2] for row in rows][:3] == [
        ["(model)", "CNN"],
        ["stages", "Sequential"],
        ["stages.0", "Sequential"],
    ]
    assert {row.index(cell) for row, cell in zip(rows[:2], ("2×10", "2×8×4×4"), strict=True)} == {
        header.index("output")
    }
    convolution = next(row for row in rows if row.startswith("stages.0.0"))
    assert convolution.split() == ["stages.0.0", "Conv2d", "2×8×8×8", "216", "55.3", "k", "0", "B"]


def test_a_lazy_module_is_an_error_that_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3))
    with pytest.raises(JobError, match=r"1\.weight has no shape yet; run the model once"):
        summary(model, torch.randn(2, 4))


@pytest.mark.parametrize("example", [{"x": torch.zeros(1)}, [torch.zeros(1)], (1, 2)])
def test_an_example_of_another_type_is_an_error(example: object) -> None:
    with pytest.raises(JobError, match="give a tensor or a tuple of tensors"):
        summary(nn.Identity(), example)  # type: ignore[arg-type]
