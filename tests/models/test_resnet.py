"""The residual networks are the published ones."""

import pytest
import torch

from torchspeed.errors import JobError
from torchspeed.models import ResNet


@pytest.mark.parametrize(
    ("depth", "parameters", "entries"),
    # torchvision's documentation of its weights; entries: the keys of its state_dict
    [
        (18, 11_689_512, 122),
        (34, 21_797_672, 218),
        (50, 25_557_032, 320),
        (101, 44_549_160, 626),
        (152, 60_192_808, 932),
    ],
)
def test_imagenet_networks_have_torchvisions_parameters(depth: int, parameters: int, entries: int) -> None:
    with torch.device("meta"):
        model = ResNet(3, 1000, depth=depth, width=64, stem="imagenet")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(model.state_dict()) == entries


def test_parameters_carry_torchvisions_names() -> None:
    with torch.device("meta"):
        names = set(ResNet(3, 1000, depth=50, width=64, stem="imagenet").state_dict())
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
    } <= names
    assert {"layer1.0.downsample.1.bias", "layer4.2.bn3.num_batches_tracked", "fc.bias"} <= names


@pytest.mark.parametrize(
    ("depth", "millions"),
    # He et al., table 6
    [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")],
)
def test_cifar_networks_have_the_published_parameters(depth: int, millions: str) -> None:
    with torch.device("meta"):
        model = ResNet(3, 10, depth=depth, width=16)
    count = sum(parameter.numel() for parameter in model.parameters())
    # A shortcut of the paper pads with zeros where here it is a 1×1 convolution: 2 752 parameters more.
    assert f"{(count - 2752) / 1e6:.{len(millions) - 2}f}" == millions


@pytest.mark.parametrize("depth", [1, 2, 16, 19, 22, 103])
def test_a_depth_without_layout_is_an_error_that_lists_the_valid_ones(depth: int) -> None:
    with pytest.raises(JobError, match=rf"depth={depth}; valid: 18, 34 .* 50, 101, 152 .* 6n \+ 2 .* 8, 14, 20"):
        ResNet(depth=depth)


def test_an_unknown_stem_is_an_error_that_lists_the_valid_ones() -> None:
    with pytest.raises(JobError, match="stem='mnist'; valid: cifar, imagenet"):
        ResNet(stem="mnist")  # type: ignore[arg-type]


def test_the_stem_decides_the_resolution() -> None:
    images = torch.randn(2, 3, 64, 64)
    for stem, side in (("cifar", 64), ("imagenet", 16)):
        model = ResNet(depth=8, width=4, stem=stem)
        sizes = []
        model.layer1.register_forward_hook(lambda _, __, output, sizes=sizes: sizes.append(output.shape))
        model(images)
        assert sizes == [(2, 4, side, side)]


@pytest.mark.parametrize("depth", [8, 50])
def test_zero_init_makes_every_block_start_as_its_shortcut(depth: int) -> None:
    model = ResNet(depth=depth, width=4, zero_init_residual=True).layer1
    block = model[-1] if depth == 50 else model[0]
    x = torch.rand(2, 16 if depth == 50 else 4, 8, 8)
    assert torch.equal(block(x), x)
    plain = ResNet(depth=depth, width=4).layer1
    assert not torch.equal((plain[-1] if depth == 50 else plain[0])(x), x)
