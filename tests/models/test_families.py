"""What every family of models promises, whatever its architecture."""

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from torchspeed.errors import JobError
from torchspeed.models import CNN, FAMILIES, RNN, ResNet, Transformer

CLASSES = 5


def _images() -> Tensor:
    return torch.randn(4, 3, 9, 7)


def _tokens() -> Tensor:
    return torch.randint(11, (4, 6))


# name: (constructor of depth and width, two depths, example, shape of the output)
SMALL: dict[str, tuple[Callable[[int, int], nn.Module], tuple[int, int], Callable[[], Tensor], tuple[int, ...]]] = {
    "cnn": (lambda d, w: CNN(3, CLASSES, depth=d, width=w), (1, 6), _images, (4, CLASSES)),
    "cnn-group": (
        lambda d, w: CNN(3, CLASSES, depth=d, width=w, norm="group"),
        (2, 3),
        _images,
        (4, CLASSES),
    ),
    "resnet-basic": (lambda d, w: ResNet(3, CLASSES, depth=d, width=w), (8, 18), _images, (4, CLASSES)),
    "resnet-bottleneck": (
        lambda d, w: ResNet(3, CLASSES, depth=d, width=w, stem="imagenet"),
        (14, 50),
        lambda: torch.randn(2, 3, 64, 40),
        (2, CLASSES),
    ),
    **{
        f"{kind}-language": (
            lambda d, w, kind=kind: RNN(kind, vocabulary=11, depth=d, width=w),
            (1, 3),
            _tokens,
            (4, 6, 11),
        )
        for kind in ("rnn", "lstm", "gru")
    },
    "lstm-features": (
        lambda d, w: RNN("lstm", features=3, classes=CLASSES, depth=d, width=w, bidirectional=True),
        (1, 2),
        lambda: torch.randn(4, 6, 3),
        (4, CLASSES),
    ),
    "gru-text": (
        lambda d, w: RNN("gru", vocabulary=11, classes=CLASSES, depth=d, width=w),
        (1, 2),
        _tokens,
        (4, CLASSES),
    ),
    "transformer": (
        lambda d, w: Transformer(11, context=8, depth=d, width=w, heads=2),
        (1, 3),
        _tokens,
        (4, 6, 11),
    ),
    "transformer-rotary": (
        lambda d, w: Transformer(
            11, context=8, depth=d, width=w, heads=2, positions="rotary", tied_embeddings=False, bias=False
        ),
        (1, 3),
        _tokens,
        (4, 6, 11),
    ),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(SMALL))
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, depths, example, _ = SMALL[request.param]
    return make(depths[0], 8), example()


@pytest.mark.parametrize("name", SMALL)
def test_the_output_has_its_shape_at_every_depth_and_width(name: str) -> None:
    make, depths, example, shape = SMALL[name]
    sizes = []
    for depth in depths:
        for width in (4, 12):
            model = make(depth, width)
            assert model(example()).shape == shape
            sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert sizes[0] < sizes[1] < sizes[3], "a wider model has more parameters, and a deeper one too"
    assert sizes[0] < sizes[2]


def test_the_gradient_reaches_every_parameter(family: tuple[nn.Module, Tensor]) -> None:
    model, example = family
    output = model(example)
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_state_restores_the_function(name: str) -> None:
    make, depths, example, _ = SMALL[name]
    batch = example()
    model, other = make(depths[0], 8), make(depths[0], 8)
    model(batch)  # so that running statistics are not those of a new model
    assert not torch.equal(model.eval()(batch), other.eval()(batch))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(model(batch), other(batch))


def test_autocast_to_bfloat16_gives_nearly_the_same_and_trains(family: tuple[nn.Module, Tensor]) -> None:
    model, example = family
    model.eval()
    expected = model(example)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(example)
    assert output.dtype == torch.bfloat16
    assert (output - expected).norm() < 0.05 * expected.norm()
    output.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["cnn", "cnn-group", "resnet-basic", "gru-text", "transformer", "transformer-rotary"])
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_stacked_models_give_the_gradients_of_each(name: str, training: bool) -> None:
    make, depths, example, _ = SMALL[name]
    models = [make(depths[0], 8).train(training) for _ in range(3)]
    batch = example()

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        output: Tensor = functional_call(models[0], (parameters, buffers), (batch,))
        return output.square().mean()

    parameters, buffers = stack_module_state(models)
    stacked = vmap(grad(loss))(parameters, buffers)
    for i, model in enumerate(models):
        model(batch).square().mean().backward()
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(stacked[key][i], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "cnn-group", "resnet-basic", "resnet-bottleneck"])
def test_channels_last_stays_channels_last_through_every_feature_map(name: str) -> None:
    make, depths, _, _ = SMALL[name]
    model = make(depths[1] if name == "resnet-bottleneck" else depths[0], 8)
    model = model.to(memory_format=torch.channels_last)
    lost, maps = [], []

    def look(module: nn.Module, _: object, output: Tensor) -> None:
        if output.ndim == 4:
            maps.append(output.shape)
            if not output.is_contiguous(memory_format=torch.channels_last):
                lost.append(module)

    for module in model.modules():
        module.register_forward_hook(look)
    model(torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert maps
    assert not lost


@pytest.mark.parametrize("name", ["cnn", "resnet-basic"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 17)])
def test_image_models_take_any_input_size(name: str, size: tuple[int, int]) -> None:
    make, depths, _, shape = SMALL[name]
    assert make(depths[1], 8).eval()(torch.randn(4, 3, *size)).shape == shape


@pytest.mark.parametrize("name", ["cnn", "resnet-basic"])
def test_image_models_look_at_every_pixel(name: str) -> None:
    make, depths, example, _ = SMALL[name]
    images = example().requires_grad_()
    make(depths[0], 8).eval()(images).sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("name", ["cnn", "resnet-basic", "transformer", "transformer-rotary"])
def test_a_compiler_sees_one_graph(name: str) -> None:
    make, depths, example, _ = SMALL[name]
    model, batch = make(depths[0], 8), example()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(batch), model(batch), atol=1e-5)


@pytest.mark.parametrize("family_name", FAMILIES)
@pytest.mark.parametrize("argument", ["depth", "width"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
def test_depth_and_width_are_whole_numbers_of_at_least_one(family_name: str, argument: str, value: object) -> None:
    with pytest.raises(JobError, match=rf"{argument}={value!r}; give a whole number of at least 1"):
        FAMILIES[family_name](**{argument: value})


@pytest.mark.parametrize("family", [CNN, RNN, Transformer])
def test_dropout_acts_in_training_alone(family: type[nn.Module]) -> None:
    sizes = {"vocabulary": 11} if family is not CNN else {}
    model = family(**sizes, depth=1, width=8, dropout=0.5)
    batch = _images() if family is CNN else _tokens()
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))
    with pytest.raises(JobError, match=r"dropout=1\.0; give a probability"):
        family(**sizes, dropout=1.0)
