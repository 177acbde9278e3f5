"""Muon's matrices are orthogonalised, everything else is its companion's, and both are one optimizer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from torchspeed.errors import JobError
from torchspeed.optim import Muon, newton_schulz, optimizer


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(128, 16),
        nn.Linear(16, 4),
    )


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    for step in range(steps):
        give_gradients(model, step)
        for each in optimizers:
            each.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 16, 64), (5, 64, 16), (3, 8, 72), (1, 1, 9), (2, 100, 10)])
def test_singular_values_come_near_one_and_directions_stay(shape, dtype):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = newton_schulz(matrices, dtype=dtype)
    assert result.dtype == dtype
    assert result.shape == shape
    values = torch.linalg.svdvals(result.float())
    assert values.min() > 0.65
    assert values.max() < 1.25
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity((u @ vh).flatten(1), result.float().flatten(1))
    assert cosine.min() > 0.98


def test_a_zero_matrix_stays_zero():
    assert torch.equal(newton_schulz(torch.zeros(1, 4, 6)).float(), torch.zeros(1, 4, 6))


@pytest.mark.parametrize("nesterov", [True, False])
def test_200_steps_equal_the_update_written_by_hand(nesterov):
    """Gradients are given, so that rounding in the orthogonalisation is not fed back."""
    start = np.random.default_rng(0).standard_normal((6, 4, 2, 2))
    theta, buffer = start.copy(), np.zeros_like(start)
    weight = nn.Parameter(torch.as_tensor(start))
    muon = Muon([weight], 0.01, 0.1, 0.9, nesterov, ns_dtype="float32", adjust_lr_fn="match_rms_adamw")
    rng = np.random.default_rng(1)
    for _ in range(200):
        g = rng.standard_normal(start.shape)
        weight.grad = torch.as_tensor(g)
        muon.step()
        buffer = 0.9 * buffer + 0.1 * g
        x = (0.1 * g + 0.9 * buffer if nesterov else buffer).reshape(6, 16)
        x = x / np.linalg.norm(x)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        theta = theta * (1 - 0.01 * 0.1) - 0.01 * 0.2 * math.sqrt(16) * x.reshape(start.shape)
    np.testing.assert_allclose(weight.detach().numpy(), theta, rtol=0, atol=1e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no torch.optim.Muon to compare with")
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_matrices_follow_pytorchs_own_muon(scale):
    """Within what bf16 products in another order add up to over 200 steps; the weights move by about 0.5."""
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "adjust_lr_fn": scale}
    ends = {}
    for kind, make in {
        "theirs": torch.optim.Muon,
        "loop": lambda p, **o: Muon(p, **o, foreach=False),
        "together": Muon,
    }.items():
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in [(8, 16), (8, 16), (16, 8), (4, 4)]))
        ends[kind] = train(model, make(model.parameters(), **options), steps=200)
    for theirs, loop, together in zip(*ends.values(), strict=True):
        torch.testing.assert_close(loop, theirs, rtol=0, atol=5e-3)
        torch.testing.assert_close(together, theirs, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("companion", "reference"),
    [
        ("adamw", lambda p: torch.optim.AdamW(p, 0.003, weight_decay=0.1)),
        ("sgd", lambda p: torch.optim.SGD(p, 0.003, momentum=0.9, nesterov=True, weight_decay=0.1)),
    ],
)
def test_vectors_go_to_the_companion_which_is_pytorchs_own(companion, reference):
    ours, theirs = net(), net()
    muon = Muon(ours.parameters(), 0.02, 0.1, companion=companion, companion_lr=0.003)
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    got = train(ours, muon, steps=200)
    want = train(theirs, reference(vectors), steps=200)
    assert sum(a.ndim < 2 for a in got) == 6
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b) == (a.ndim < 2)


def test_a_conv_filter_bank_moves_along_an_orthogonal_matrix():
    model = net()
    before = model[2].weight.detach().clone()
    train(model, Muon(model.parameters(), 0.5), steps=1)
    step = ((before - model[2].weight.detach()) / 0.5).flatten(1)
    values = torch.linalg.svdvals(step)
    assert step.shape == (8, 72)
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_channels_last_filters_move_the_same():
    plain, last = net(), net().to(memory_format=torch.channels_last)
    ends = [train(model, Muon(model.parameters(), 0.02), steps=20) for model in (plain, last)]
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


def test_normalised_filters_have_the_norm_of_root_out_before_the_step():
    model = net()
    train(model, Muon(model.parameters(), 0.0, normalize_filters=True), steps=1)
    assert torch.linalg.vector_norm(model[0].weight).item() == pytest.approx(math.sqrt(8), rel=1e-5)
    assert torch.equal(model[4].weight, net()[4].weight)


def group_names(muon: torch.optim.Optimizer) -> dict[str, list[str]]:
    return {group["algorithm"]: group["param_names"] for group in muon.param_groups}


def test_excluded_names_go_to_the_companion():
    muon = Muon(net().named_parameters(), exclude=["5.*"], companion="sgd")
    assert group_names(muon)["muon"] == ["0.weight", "2.weight", "4.weight"]
    assert "5.weight" in group_names(muon)["sgd"]


def test_a_predicate_excludes_too():
    muon = Muon(net().named_parameters(), exclude=lambda name, parameter: parameter.shape[0] == 4)
    assert group_names(muon)["muon"] == ["0.weight", "2.weight", "4.weight"]


def test_a_pattern_that_matches_nothing_or_has_nothing_to_match_is_an_error():
    with pytest.raises(JobError, match=r"no parameter is called head\.\*"):
        optimizer("muon", learning_rate=0.02, exclude=["head.*", "5.*"])(net().named_parameters())
    with pytest.raises(JobError, match=r"named_parameters\(\)"):
        optimizer("muon", learning_rate=0.02, exclude=["5.*"])(net().parameters())


def test_a_group_that_names_its_algorithm_is_taken_as_it_is():
    model = net()
    groups = [
        {"params": model[:4].parameters()},
        {"params": model[4].weight, "algorithm": "muon", "lr": 0.5, "momentum": 0.5},
        {"params": [model[4].bias, *model[5].parameters()], "algorithm": "sgd", "lr": 0.25},
    ]
    muon = Muon(groups, 0.02, companion_lr=0.001)
    assert [(g["algorithm"], g["lr"]) for g in muon.param_groups] == [
        ("muon", 0.02),
        ("adamw", 0.001),
        ("muon", 0.5),
        ("sgd", 0.25),
    ]
    assert muon.param_groups[2]["momentum"] == 0.5
    train(model, muon, steps=2)


def test_a_vector_in_a_muon_group_and_an_unknown_algorithm_are_errors():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Muon([{"params": [nn.Parameter(torch.ones(3))], "algorithm": "muon"}])
    with pytest.raises(ValueError, match="algorithm is 'adam'"):
        Muon([{"params": [nn.Parameter(torch.ones(3))], "algorithm": "adam"}])
    with pytest.raises(ValueError, match="companion is 'adam'"):
        Muon([nn.Parameter(torch.ones(3))], companion="adam")


def test_a_schedule_scales_matrices_and_companion_alike():
    muon = Muon(net().parameters(), 0.02, companion_lr=0.001)
    schedule = torch.optim.lr_scheduler.ExponentialLR(muon, 0.5)
    muon.step()
    schedule.step()
    assert [group["lr"] for group in muon.param_groups] == [0.01, 0.0005]


def test_equal_shapes_of_different_dtype_share_a_group():
    weights = [nn.Parameter(torch.ones(4, 6, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    for weight in weights:
        weight.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    Muon(weights, 0.1).step()
    torch.testing.assert_close(weights[0].detach().double(), weights[1].detach(), rtol=0, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("companion", ["adamw", "sgd"])
def test_a_gpu_goes_the_same_way(companion):
    ends = []
    for device in ("cpu", "cuda"):
        model = net()
        muon = Muon(model.to(device).parameters(), 0.02, companion=companion, companion_lr=0.003)
        for step in range(20):
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            muon.step()
        ends.append([parameter.detach().cpu() for parameter in model.parameters()])
    for on_cpu, on_gpu in zip(*ends, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=5e-3)
