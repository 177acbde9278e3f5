"""Every optimizer follows its published update, resumes exactly, and says what it does not understand."""

import copy
import math
import pickle
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from torchspeed.errors import JobError, MissingPackage
from torchspeed.optim import OPTIMIZERS, optimizer

STEPS = 200
OPTIONS = {"muon": {"companion_lr": 0.01}, "lion": {"weight_decay": 0.1}, "adamw": {"weight_decay": 0.1}}


def gradient_descent(theta, gradient, lr):
    while True:
        theta = theta - lr * gradient(theta)
        yield theta


def momentum(theta, gradient, lr, nesterov):
    velocity = np.zeros_like(theta)
    while True:
        g = gradient(theta)
        velocity = 0.9 * velocity + g
        theta = theta - lr * (g + 0.9 * velocity if nesterov else velocity)
        yield theta


def adagrad(theta, gradient, lr):
    total = np.zeros_like(theta)
    while True:
        g = gradient(theta)
        total = total + g**2
        theta = theta - lr * g / (np.sqrt(total) + 1e-10)
        yield theta


def rmsprop(theta, gradient, lr):
    mean = np.zeros_like(theta)
    while True:
        g = gradient(theta)
        mean = 0.99 * mean + 0.01 * g**2
        theta = theta - lr * g / (np.sqrt(mean) + 1e-8)
        yield theta


def adam(theta, gradient, lr, decay):
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g, t = gradient(theta), t + 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta = theta * (1 - lr * decay)
        theta = theta - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield theta


def nadam(theta, gradient, lr):
    m, v, t, product = np.zeros_like(theta), np.zeros_like(theta), 0, 1.0
    while True:
        g, t = gradient(theta), t + 1
        mu, following = (0.9 * (1 - 0.5 * 0.96 ** (k * 0.004)) for k in (t, t + 1))
        product *= mu
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        denominator = np.sqrt(v / (1 - 0.999**t)) + 1e-8
        step = (1 - mu) / (1 - product) * g + following / (1 - product * following) * m
        theta = theta - lr * step / denominator
        yield theta


def lion(theta, gradient, lr, decay):
    m = np.zeros_like(theta)
    while True:
        g = gradient(theta)
        theta = theta - lr * (np.sign(0.9 * m + 0.1 * g) + decay * theta)
        m = 0.99 * m + 0.01 * g
        yield theta


def schedule_free(theta, gradient, lr):
    """In the paper's own terms: gradients at y, a fast iterate z, and its average x; the model holds y."""
    x, y, z, v, t = theta, theta, theta, np.zeros_like(theta), 0
    while True:
        g, t = gradient(y), t + 1
        v = 0.999 * v + 0.001 * g**2
        z = z - lr * g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        x = (1 - 1 / t) * x + z / t
        y = 0.1 * z + 0.9 * x
        yield y


CLOSED_FORMS: dict[str, Callable[..., Iterator[np.ndarray]]] = {
    "gd": gradient_descent,
    "sgd": lambda *a: momentum(*a, nesterov=False),
    "nesterov": lambda *a: momentum(*a, nesterov=True),
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": lambda *a: adam(*a, decay=0.0),
    "adamw": lambda *a: adam(*a, decay=0.1),
    "nadam": nadam,
    "lion": lambda *a: lion(*a, decay=0.1),
    "schedulefree": schedule_free,
}


def test_every_name_but_muon_has_a_closed_form_here():
    assert {*CLOSED_FORMS, "muon"} == set(OPTIMIZERS)


def made(name, bowl):
    if name == "schedulefree":
        pytest.importorskip("schedulefree", reason="the extra 'optim' is not installed")
    built = optimizer(name, learning_rate=0.01, **OPTIONS.get(name, {}))(bowl.named_parameters())
    if hasattr(built, "train"):
        built.train()
    return built


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_200_steps_equal_the_update_written_by_hand(name, make_bowl):
    bowl = make_bowl()
    weights = bowl.descend(made(name, bowl), STEPS)
    for i, weight in enumerate(weights):
        by_hand = CLOSED_FORMS[name](bowl.starts[i], lambda theta, i=i: bowl.gradient(i, theta), 0.01)
        for _ in range(STEPS):
            theta = next(by_hand)
        # PyTorch's NAdam keeps its product of momenta in float32, hence not tighter.
        np.testing.assert_allclose(weight.numpy(), theta, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("stop", [0, 1, 17, 63])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loading_a_saved_state_goes_on_bit_for_bit(name, stop, make_bowl):
    whole = make_bowl(dtype=torch.float32)
    expected = whole.descend(made(name, whole), 80)

    first = make_bowl(dtype=torch.float32)
    before = made(name, first)
    first.descend(before, stop)
    weights, state = copy.deepcopy((first.state_dict(), before.state_dict()))

    second = make_bowl(dtype=torch.float32)
    after = made(name, second)
    second.load_state_dict(weights)
    after.load_state_dict(state)
    for got, want in zip(second.descend(after, 80 - stop), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_factory_is_a_value_that_survives_pickling(name, make_bowl):
    if name == "schedulefree":
        pytest.importorskip("schedulefree", reason="the extra 'optim' is not installed")
    factory = optimizer(name, learning_rate=0.01, weight_decay=0.1)
    again = pickle.loads(pickle.dumps(factory))
    assert again == factory
    assert hash(again) == hash(factory)
    assert type(again(make_bowl().parameters())) is type(factory(make_bowl().parameters()))
    assert factory != optimizer(name, learning_rate=0.02, weight_decay=0.1)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("lion", "muon", "schedulefree")])
def test_pytorchs_own_class_is_used(name, make_bowl):
    assert type(optimizer(name, learning_rate=0.1)(make_bowl().parameters())).__module__.startswith("torch.optim")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_keep_their_own_learning_rate(name, make_bowl):
    bowl = make_bowl()
    if name == "schedulefree":
        pytest.importorskip("schedulefree", reason="the extra 'optim' is not installed")
    groups = [{"params": bowl.weights[:2], "lr": 0.5}, {"params": bowl.weights[2:]}]
    built = optimizer(name, learning_rate=0.01)(groups)
    assert [group["lr"] for group in built.param_groups] == [0.5, 0.01]


def test_constructor_options_are_defaults_and_group_options(make_bowl):
    for name in ("lion", "muon"):
        built = optimizer(name, learning_rate=0.01)(make_bowl().parameters())
        assert all(set(built.defaults) <= set(group) for group in built.param_groups)
        rebuilt = type(built)(built.param_groups, **{**built.defaults, "foreach": False})
        assert [len(group["params"]) for group in rebuilt.param_groups] == [
            len(group["params"]) for group in built.param_groups
        ]


def test_an_unknown_name_lists_all_names():
    with pytest.raises(JobError, match=r"no optimizer 'adamm'.*gd, sgd, nesterov, .*schedulefree"):
        optimizer("adamm", learning_rate=0.1)


@pytest.mark.parametrize(
    ("name", "option", "valid"),
    [
        ("adam", "lr", "learning_rate, betas, eps"),
        ("gd", "momentum", "learning_rate, weight_decay"),
        ("sgd", "nesterov", "momentum"),
        ("lion", "beta", "betas, weight_decay"),
        ("muon", "ns_step", "ns_steps"),
    ],
)
def test_an_unknown_option_lists_the_valid_ones(name, option, valid):
    with pytest.raises(JobError, match=rf"'{name}' has no option '{option}'.*{valid}"):
        optimizer(name, learning_rate=0.1, **{option: 0.5})


@pytest.mark.parametrize("learning_rate", [-0.1, math.nan, "0.1", None])
def test_a_learning_rate_that_is_none_is_refused_at_once(learning_rate):
    with pytest.raises(JobError, match="learning_rate is"):
        optimizer("sgd", learning_rate=learning_rate)


@pytest.mark.parametrize("name", ["adam", "lion", "muon"])
def test_a_value_out_of_range_names_the_optimizer(name, make_bowl):
    with pytest.raises(JobError, match=rf"'{name}'.*weight_decay"):
        optimizer(name, learning_rate=0.1, weight_decay=-1)(make_bowl().parameters())


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(MissingPackage, match=r"torchspeed\[optim\]"):
        optimizer("schedulefree", learning_rate=0.1)
