"""The plain convolutional network."""

import pytest
import torch
from torch import nn

from torchspeed.errors import JobError
from torchspeed.models import CNN


def test_channels_double_per_stage_up_to_eight_times_the_width() -> None:
    model = CNN(1, 10, width=4, depth=6)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [4, 8, 16, 32, 32, 32]


def test_with_group_norm_a_logit_depends_on_its_own_image_alone() -> None:
    batch = torch.randn(4, 3, 8, 8)
    for norm, alone in (("group", True), ("batch", False)):
        model = CNN(width=8, norm=norm)
        assert torch.allclose(model(batch)[:1], model(batch[:1]), atol=1e-5) is alone


def test_an_unknown_norm_is_an_error_that_lists_the_valid_ones() -> None:
    with pytest.raises(JobError, match="CNN: norm='layer'; valid: batch, group"):
        CNN(norm="layer")  # type: ignore[arg-type]
