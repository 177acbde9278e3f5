"""What is said of a model, at which line, and what is not said of one without the fault."""

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from torchspeed.machine import Machine
from torchspeed.measure.advice import Subject, advise

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))).mean((-2, -1)))
"""


def changed(*pairs: tuple[str, str]) -> str:
    text = NET
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_sound_model_gets_no_advice(subject_of) -> None:
    assert advise(subject_of(NET)) == ((), ())


SOFTMAX_LAYER = (
    (
        "self.head = nn.Linear(8, 4)",
        "self.head = nn.Sequential(\n            nn.Linear(8, 4),\n            nn.Softmax(1),  # here\n        )",
    ),
)
SOFTMAX_FUNCTION = (
    ("        return self.head(F.relu", "        return torch.softmax(dim=1, input=self.head(F.relu"),
    ("mean((-2, -1)))", "mean((-2, -1))))  # here"),
)


@pytest.mark.parametrize("pairs", [SOFTMAX_LAYER, SOFTMAX_FUNCTION], ids=["layer", "function"])
def test_softmax_before_cross_entropy_has_a_floor(advised, marked, pairs) -> None:
    (advice,) = advised(changed(*pairs), "softmax_before_loss")
    assert [advice.place] == marked()
    assert "with 4 classes the loss cannot fall below 0.74" in advice.effect


def test_the_floor_is_the_lowest_loss_that_there_is() -> None:
    sure = torch.eye(4)[:1] * 1e4
    loss = torch.nn.functional.cross_entropy(sure.softmax(1), torch.tensor([0]))
    assert f"{loss:.2f}" == "0.74"


def test_softmax_inside_a_model_is_its_own_business(advised) -> None:
    attention = changed(("self.head(F.relu(", "self.head(F.softmax(x.flatten(2), 2).mean() * F.relu("))
    assert advised(attention, "softmax_before_loss") == []


def test_sigmoid_before_a_loss_of_logits(advised, marked) -> None:
    text = changed(("nn.Linear(8, 4)", "nn.Linear(8, 1)"), ("return self.head(", "return torch.sigmoid(self.head("), (
        "(-2, -1)))", "(-2, -1)))).flatten()  # here"))  # fmt: skip
    job = """
def job():
    return torchspeed.Job(
        model=Net, train=(pictures, labels.float() / 3), loss=nn.BCEWithLogitsLoss(), optimizer=adam, batch_size=16,
    )
"""
    (advice,) = advised(text + job, "softmax_before_loss")
    assert [advice.place] == marked()
    assert "0.69 where the target is 0" in advice.effect
    without = text.replace("torch.sigmoid(", "(")
    assert advised(without + job, "softmax_before_loss") == []


def test_bias_before_batch_norm_is_cancelled(advised, marked) -> None:
    (advice,) = advised(changed((", bias=False)", ")  # here")), "bias_before_norm")
    assert [advice.place] == marked()
    assert "saves 8 of 276 parameters" in advice.effect


def test_layers_made_at_one_line_are_one_advice(advised, marked) -> None:
    text = """
    def block(a, b):
        return nn.Sequential(
            nn.Conv2d(a, b, 3),  # here
            nn.BatchNorm2d(b),
        )

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(block(3, 8), block(8, 8), nn.Flatten(), nn.Linear(8 * 12 * 12, 4))
    """
    (advice,) = advised(text, "bias_before_norm")
    assert [advice.place] == marked()
    assert "0.0 and 1.0" in advice.found
    assert "saves 16 of" in advice.effect


def test_a_bias_that_something_else_reads_is_no_fault(advised) -> None:
    both = changed((", bias=False)", ")"), ("self.norm(self.conv(x))", "(lambda y: self.norm(y) + y)(self.conv(x))"))
    assert advised(both, "bias_before_norm") == []
    frozen = changed((", bias=False)", ")"), ("return self.head", "self.norm.eval()\n        return self.head"))
    assert advised(frozen, "bias_before_norm") == []


def test_activation_before_max_pooling(advised, marked) -> None:
    relu = "            nn.ReLU(inplace=True),  # here\n"
    pool = "            nn.MaxPool2d(2),\n"
    text = """
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3),
{}            nn.Flatten(),
            nn.Linear(8 * 7 * 7, 4),
        )
"""
    (advice,) = advised(text.format(relu + pool), "activation_before_pooling")
    assert [advice.place] == marked()
    assert "4× less activation work" in advice.effect
    assert advised(text.format(pool + relu), "activation_before_pooling") == []
    assert (
        advised(text.format(relu.replace("nn.ReLU(inplace=True)", "nn.GELU()") + pool), "activation_before_pooling")
        == []
    )


def test_a_layer_that_is_never_called(advised, marked) -> None:
    unused = "        self.unused = nn.Sequential(nn.Linear(3, 3), nn.ReLU())  # here\n        self.head ="
    (advice,) = advised(changed(("        self.head =", unused)), "no_gradient")
    assert [advice.place] == marked()
    assert advice.found == "unused is never called"
    assert advice.effect.startswith("12 of 280 parameters")


def test_a_layer_cut_off_from_the_loss(advised, marked) -> None:
    text = NET.replace("nn.Conv2d(3, 8, 3, bias=False)", "nn.Conv2d(3, 8, 3, bias=False)  # here")
    (advice,) = advised(text.replace("self.conv(x)", "self.conv(x).detach()"), "no_gradient")
    assert [advice.place] == marked()
    assert "conv runs, but its output does not reach the loss" in advice.found
    frozen = text.replace("self.conv(x)", "self.conv(x).detach()").replace("  # here", ".requires_grad_(False)")
    assert advised(frozen, "no_gradient") == []


def test_a_layer_that_only_some_batches_use_is_no_fault(advised) -> None:
    text = NET.replace("self.conv(x)", "(self.conv(x) if 0.7 < torch.rand(()) < 0.8 else self.conv(x).detach())")
    assert advised(text, "no_gradient") == []


def test_a_linear_layer_that_is_the_model(advised, marked) -> None:
    text = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 64, 3)
            self.fc1 = nn.Linear(64 * 14 * 14, 128)  # here
            self.fc2 = nn.Linear(128, 4)

        def forward(self, x):
            return self.fc2(F.relu(self.fc1(F.relu(self.conv(x)).view(x.size(0), -1))))
    """
    (advice,) = advised(text, "wide_linear", flops={"fc1": 0.25})
    assert [advice.place] == marked()
    assert "12,544 inputs, a flattened 64×14×14" in advice.found
    assert "100% of 1,608,068 parameters and does 25% of the FLOPs" in advice.effect
    assert "8,192 weights are left" in advice.remedy
    assert advised(text.replace("128", "8"), "wide_linear") == []


def test_a_wide_linear_layer_on_vectors_is_no_fault(advised) -> None:
    text = """
    Net = lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.Linear(2000, 4)
    )
    """
    assert advised(text, "wide_linear") == []


WRAPPED = """
def job():
    return torchspeed.Job(
        model=lambda: {},
        train=(pictures, labels), loss=nn.CrossEntropyLoss(), optimizer=adam,
    )
"""


def test_data_parallel(advised, marked) -> None:
    (advice,) = advised(NET + WRAPPED.replace("{},", "nn.DataParallel(Net()),  # here"), "data_parallel")
    assert [advice.place] == marked()
    assert "it does nothing on no GPU; with more, every step copies 0.00107 MB of parameters to each" in advice.effect
    assert advised(NET + WRAPPED.format("Net()"), "data_parallel") == []


def test_a_layer_inside_data_parallel_keeps_its_line(advised, marked) -> None:
    text = NET.replace(", bias=False)", ")  # here") + WRAPPED.format("nn.DataParallel(Net())")
    (advice,) = advised(text, "bias_before_norm")
    assert [advice.place] == marked()
    layers = "nn.Flatten(),\n            nn.Linear(768, 4),  # here\n            nn.BatchNorm1d(4)"
    (advice,) = advised(WRAPPED.format(f"nn.DataParallel(nn.Sequential({layers}))"), "bias_before_norm")
    assert [advice.place] == marked()


def test_heavy_dropout(advised, marked) -> None:
    text = """
    Net = lambda: nn.Sequential(
        nn.Flatten(),
        nn.Dropout({}),  # here
        nn.Linear(768, 4),
    )
    """
    (advice,) = advised(text.format(0.9), "heavy_dropout")
    assert [advice.place] == marked()
    assert advice.effect == "1 value in 10 comes through, times 10"
    assert advised(text.format(0.5), "heavy_dropout") == []


def test_sizes_for_tensor_cores(advised, marked) -> None:
    text = """
    Net = lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(768, {}),  # here
        nn.ReLU(),
        nn.Linear({}, 4),  # here
    )
    """
    here = Machine.detect("cpu")
    card = dataclasses.replace(here, device="cuda", compute_capability=(8, 0))
    found = advised(text.format(100, 100), "tensor_core_sizes", machine=card, flops={"1": 0.9})
    assert [advice.place for advice in found] == marked()
    assert found[0].remedy == "round up to 104"
    assert "90% of the FLOPs" in found[0].effect
    assert advised(text.format(104, 104), "tensor_core_sizes", machine=card) == []
    assert advised(text.format(100, 100), "tensor_core_sizes", machine=here) == []


def test_looking_leaves_the_run_as_it_was(subject_of: Callable[..., Subject]) -> None:
    text = "import random, numpy\n" + NET.replace("F.relu(", "random.random() * numpy.random.rand() * F.dropout(")
    text = text.replace("return self", "self.norm.eval()\n        self.norm.running_mean.add_(1)\n        return self")
    subject = subject_of(text)
    model = subject.run.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    advise(subject)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_cannot_be_had_is_a_note_and_the_rest_is_said(subject_of) -> None:
    text = NET.replace("F.relu(", "(F.relu if torch.is_grad_enabled() else 1/0)(").replace("self.conv(x)", "x.broken()")
    advice, notes = advise(subject_of(text))
    assert advice == ()
    (note,) = notes
    assert "no_gradient" in note
    assert "AttributeError" in note


def test_a_backward_pass_of_its_own_kind_silences_one_advice_alone(subject_of) -> None:
    text = "from torch.utils.checkpoint import checkpoint\n" + NET.replace(", bias=False)", ")")
    text = text.replace("self.head(F.relu", "checkpoint(self.head, F.relu").replace("1)))", "1)), use_reentrant=True)")
    advice, notes = advise(subject_of(text))
    assert [each.name for each in advice] == ["bias_before_norm"]
    (note,) = notes
    assert note.startswith("no advice on no_gradient: RuntimeError")
