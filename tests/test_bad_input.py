"""Each of these ends with one clear error naming place, finding and way out, and nothing is written."""

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from torchspeed import cli

HEAD = """
import torch, torchspeed
from torch import nn
inputs, labels = torch.randn(64, 6), torch.randint(0, 2, (64,))
images = torch.randn(32, 3, 224, 224)
def make(**changes):
    fields = dict(model=lambda: nn.Linear(6, 2), train=(inputs, labels), valid=(inputs, labels),
                  loss=nn.CrossEntropyLoss(), optimizer=lambda params: torch.optim.SGD(params, lr=0.1), batch_size=16)
    return torchspeed.Job(**{**fields, **changes})
"""

CNN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 8 * 8, 10)
    def forward(self, x):
        x = self.pool(self.pool(torch.relu(self.conv2(torch.relu(self.conv1(x))))))
        return self.fc1(x.{reshape})
def job():
    return make(model=Net, train=(images, torch.zeros(32).long()), valid=None, batch_size=4)
"""


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of ``torchspeed train`` in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["torchspeed", "train", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return (code if isinstance(code, int) else 1), capsys.readouterr().err


CASES = {
    "raising": ("raise OSError('no disk')", 78, r"job.py:10: running it raised OSError: no disk"),
    "syntax": ("def job(:", 78, r"job.py:10: running it raised SyntaxError"),
    "exiting": ("raise SystemExit(3)", 78, r"job.py:10: running it raised SystemExit: 3"),
    "function raising": ("def job():\n    return 1 / 0", 78, r"job.py:11: calling it raised ZeroDivisionError"),
    "no function": ("def train(): pass", 78, r"job.py: has no 'job'; it defines: make, train"),
    "something else": ("def job(): return {}", 78, r"job.py: job\(\) returned a dict, not a torchspeed.Job"),
    "a missing argument": ("def job(data): return make()", 78, r"job\(\) needs data; give --data"),
    "no module": ("def job(): return make(model=lambda: 3)", 78, r"model\(\) returned a int, not an nn.Module"),
    "model raising": (
        "def job(): return make(model=lambda: nn.Linear('a', 2))",
        78,
        r"model\(\) raised TypeError",
    ),
    "no optimizer": ("def job(): return make(optimizer=lambda params: 3)", 78, r"optimizer\(\) returned a int"),
    "no parameters": ("def job(): return make(model=nn.ReLU)", 78, r"the model has no parameters to train"),
    "labels out of range": (
        "def job(): return make(train=(inputs, torch.arange(64) // 21))",
        65,
        r"label 2 is out of range \(sample 42 of train\): the model gives 2 classes, so labels run from 0 to 1",
    ),
    "negative labels": (
        "def job(): return make(valid=(inputs, labels - 2))",
        65,
        r"label -[12] is out of range \(sample \d+ of valid\)",
    ),
    "empty": ("def job(): return make(train=(inputs[:0], labels[:0]))", 65, r"train: the data are empty \(length 0\)"),
    "unequal": ("def job(): return make(train=(inputs, labels[:9]))", 65, r"train: unequal lengths \[64, 9\]"),
    "integer targets of another loss": (
        "def job(): return make(loss=lambda o, t: nn.functional.cross_entropy(o, t), train=(inputs, labels + 5))",
        65,
        r"label [56] is out of range \(sample \d+ of train\): the model gives 2 classes",
    ),
    "data raising": (
        "def job(): return make(train=lambda: open('/nope'))",
        78,
        r"job.py:10: train\(\) raised FileNotFoundError",
    ),
    "not a scalar": (
        "def job(): return make(loss=nn.CrossEntropyLoss(reduction='none'))",
        78,
        r"the loss has shape \[16\] where a scalar is needed; use reduction='mean'",
    ),
    "not a tensor": (
        "def job(): return make(loss=lambda o, t: o.sum().item())",
        78,
        r"the loss is a float, not a tensor; return the tensor itself, not .item\(\)",
    ),
    "not finite": (
        "def job(): return make(loss=lambda o, t: o.sum() / 0)",
        78,
        r"the loss is (-?inf|nan) at step 1 although the batch is finite",
    ),
    "data not finite": (
        "inputs[5] = float('nan')\ndef job(): return make(batch_size=64)",
        65,
        r"the loss is nan at step 1: the input of the batch has 6 values that are not finite",
    ),
    "loss raising": (
        "def job(): return make(loss=nn.MSELoss(), train=(inputs, torch.zeros(64, 3)), valid=None)",
        78,
        r"loss\(\) raised RuntimeError for output \[16, 2\] and target \[16, 3\] float32",
    ),
    "not a pair": (
        "def job(): return make(train=(inputs, labels, labels))",
        78,
        r"a batch is 3 parts, but loss=\(output, target\) needs \(input, target\); give step=",
    ),
    "224 pixels into a Linear for 32": (
        CNN.format(reshape="flatten(1)"),
        78,
        r"job.py:17: fc1 expects 1024 features but conv2 gives 50176 for 3×224×224 input; "
        r"set in_features=50176 or use nn.LazyLinear",
    ),
    "the same by view": (
        CNN.format(reshape="view(-1, 16 * 8 * 8)"),
        78,
        r"job.py:20: the model gives 196 outputs for 4 samples: a view or reshape folds features into the batch",
    ),
    "channels": (
        "def job(): return make(model=lambda: nn.Conv2d(1, 2, 3), train=(images, torch.zeros(32).long()), valid=None)",
        78,
        r"Conv2d expects 1 channels but the input gives 3 \(shape \[16, 3, 224, 224\]\).*set in_channels=3",
    ),
    "a metric without samples": (
        "def job(): return make(metric=lambda output, target: output.mean())",
        78,
        r"the metric '<lambda>' must return one value per sample; found scalar",
    ),
    "unknown lever": ("def job(): return make()", 78, r"plan: unknown lever 'speed'; valid: ", "--set", "speed=9"),
    "unknown option": (
        "def job(): return make()",
        78,
        r"plan: precision has no option 'bf17'; valid: as written, bf16, tf32, fp16, fp8",
        "--set",
        "precision=bf17",
    ),
    "unwritable": (
        "def job(): return make()",
        78,
        r"job.py/run: cannot be written: .*job.py is not a directory",
        "--run-dir",
        "job.py/run",
    ),
    "no such device": ("def job(): return make()", 78, r"unknown device 'tpu'; valid:", "--device", "tpu"),
    "data for a job without": (
        "def job(): return make()",
        78,
        r"job\(\) takes no data=, so --data has no meaning for this job",
        "--data",
        "x",
    ),
}


@pytest.mark.filterwarnings("ignore:Using a target size")  # PyTorch's own, before it raises
@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str) -> None:
    body, code, finding, *arguments = CASES[name]
    (tmp_path / "job.py").write_text(HEAD + textwrap.dedent(body) + "\n")
    got, said = run(tmp_path, monkeypatch, capsys, "job.py", *arguments)
    assert got == code, said
    assert len(said.strip().splitlines()) == 1
    assert re.search(finding, said), said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["job.py"]


@pytest.mark.parametrize(
    ("reference", "finding"),
    [
        ("missing.py", "missing.py: no such file"),
        ("digitz", "no recipe 'digitz'; recipes: characters, cifar10, digits, spoken-digits"),
        ("no.such.module:job", "no.such.module: No module named 'no'"),
    ],
)
def test_a_reference_that_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, reference: str, finding: str
) -> None:
    code, said = run(tmp_path, monkeypatch, capsys, reference)
    assert code == 78
    assert finding in said
    assert not list(tmp_path.iterdir())


def test_a_label_that_only_a_later_batch_holds_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """An opaque dataset cannot be looked through before; the sample is named when its batch comes."""
    body = """
class Late(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, i): return inputs[i], 7 if i == 50 else 0
def job(): return make(train=Late(), shuffle=False, valid=None)
"""
    (tmp_path / "job.py").write_text(HEAD + body)
    code, said = run(tmp_path, monkeypatch, capsys, "job.py")
    assert code == 65
    assert "label 7 is out of range (sample 50 of train): the model gives 2 classes" in said


def test_resume_refuses_other_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code, said = run(tmp_path, monkeypatch, capsys, "digits", "--resume", "x", "--seed", "3")
    assert code == 78
    assert "leave out JOB, seed" in said


def test_resume_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code, said = run(tmp_path, monkeypatch, capsys, "--resume", "nowhere")
    assert code == 65
    assert "nowhere: no run to resume" in said
