"""The network of the speed records and its whitening stem."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchspeed.errors import DataError, JobError
from torchspeed.models.speednet import SpeedNet, whiten


def _smooth_images(n: int = 64, channels: int = 3) -> Tensor:
    """Noise blurred over space and mixed over channels: neighbours and colours are correlated, as in photographs."""
    noise = torch.randn(n, channels, 14, 14, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 3, stride=1) + noise.mean(1, keepdim=True)[..., 1:-1, 1:-1]


def test_whitened_patches_have_the_unit_matrix_as_second_moment() -> None:
    model, images = SpeedNet(widths=(8, 8)), _smooth_images(300)
    whiten(model, images, eps=0.0)
    outputs = model.stem(images).transpose(0, 1).flatten(1)[:12]
    assert torch.allclose(outputs @ outputs.T / outputs.size(1), torch.eye(12), atol=1e-3)


def test_eps_keeps_components_that_hardly_vary_from_being_blown_up() -> None:
    model, images = SpeedNet(widths=(8, 8)), _smooth_images()
    images[:, 2] = images[:, 1]  # a colour that says nothing new: four patch components of variance zero
    whiten(model, images, eps=0.01)
    assert model.stem.weight.flatten(1).norm(dim=1).max() <= 0.01**-0.5 + 1e-4


def test_the_stem_keeps_both_signs_of_every_component() -> None:
    model = SpeedNet(widths=(8, 8))
    whiten(model, _smooth_images())
    half = len(model.stem.weight) // 2
    assert torch.equal(model.stem.weight[:half], -model.stem.weight[half:])


def test_whitening_takes_the_same_filters_from_the_same_images() -> None:
    first, second = SpeedNet(widths=(8, 8)), SpeedNet(widths=(8, 8))
    for model in (first, second):
        whiten(model, _smooth_images(300))
    assert torch.equal(first.stem.weight, second.stem.weight)


def test_whitening_refuses_images_that_the_model_does_not_take() -> None:
    with pytest.raises(DataError, match=r"\[64, 1, 12, 12\]; expected \[N, 3, H, W\]"):
        whiten(SpeedNet(), _smooth_images(channels=1))


def test_filters_norm_biases_and_head_are_trained_but_neither_stem_filters_nor_norm_gains() -> None:
    trained = {name for name, parameter in SpeedNet().named_parameters() if parameter.requires_grad}
    expected = {"stem.bias", "head.weight"}
    for stage in range(3):
        expected |= {f"stages.{stage}.{part}" for part in ("conv1.weight", "conv2.weight", "norm1.bias", "norm2.bias")}
    assert trained == expected
    assert not SpeedNet(train_stem_bias=False).stem.bias.requires_grad  # type: ignore[union-attr]


def test_a_filter_bank_starts_as_the_identity_plus_noise() -> None:
    convolution = SpeedNet(widths=(8, 16)).stages[1].conv1
    centre = convolution.weight[:8, :, 1, 1]
    assert torch.equal(centre, torch.eye(8)), "the first 8 of 16 outputs repeat the 8 inputs"
    assert convolution.weight[8:].std() > 0.01


def test_channel_counts_follow_the_widths_and_the_patch() -> None:
    model = SpeedNet(1, 5, widths=(4, 6), whitening_kernel=3)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [18, 4, 4, 6, 6]


def test_the_head_reads_the_strongest_response_of_each_channel_wherever_it_is() -> None:
    model, images = SpeedNet(widths=(8, 8)).eval(), torch.randn(2, 3, 32, 32)
    responses = model.stages(F.gelu(model.stem(images)))
    assert responses.shape[2:] == (7, 7)
    assert torch.allclose(model(images), model.head(responses.flatten(2).max(dim=2).values))


@pytest.mark.parametrize("side", [9, 24, 32, 40])
def test_any_picture_of_nine_pixels_or_more_gives_one_logit_per_class(side: int) -> None:
    assert SpeedNet(classes=7, widths=(4, 4, 4))(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_it_learns_to_tell_two_textures_apart_in_bf16_and_channels_last() -> None:
    torch.manual_seed(0)
    images, labels = _smooth_images(64), torch.arange(64) % 2
    images[labels == 1] = images[labels == 1].roll(1, 2) - images[labels == 1]
    model = SpeedNet(classes=2, widths=(8, 8))
    whiten(model, images)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_a_width_of_zero_and_a_network_without_stages_are_errors() -> None:
    with pytest.raises(JobError, match="SpeedNet: width1=0"):
        SpeedNet(widths=(4, 0))
    with pytest.raises(JobError, match="SpeedNet: stages=0"):
        SpeedNet(widths=())
