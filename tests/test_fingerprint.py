"""A fingerprint follows meaning: code and data count, identity, comments and order of sets do not."""

import functools
import importlib
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchspeed.fingerprint import fingerprint

SCALE = 2


def scaled(x: float) -> float:
    return x * SCALE


def make(body: str) -> Any:
    scope: dict[str, Any] = {"__name__": "user"}
    exec(body, scope)
    return scope["f"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        ([1, 2], (1, 2)),
        ({"a": 1}, {"a": 2}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(3), torch.tensor([0, 0, 1.0])),
        (np.arange(3), np.arange(4)),
        (lambda x: x + 1, lambda x: x + 2),
        (functools.partial(scaled, 1), functools.partial(scaled, 2)),
        (nn.CrossEntropyLoss(), nn.NLLLoss()),
        (torch.float32, torch.bfloat16),
        (Path("a"), Path("b")),
        (range(10), range(20)),
        (make("K = [1]\ndef f(): return K"), make("K = [2]\ndef f(): return K")),
        (make("def f():\n  return [i for i in range(3)]"), make("def f():\n  return [i for i in range(4)]")),
        (make("def g(): return 1\ndef f(): return g()"), make("def g(): return 2\ndef f(): return g()")),
        (make("K = 1\ndef f(): return K"), make("K = 2\ndef f(): return K")),
        (make("class f:\n  def go(self): return 1"), make("class f:\n  def go(self): return 2")),
        (make("def f(x=1): return x"), make("def f(x=2): return x")),
    ],
)
def test_what_means_something_else_differs(one: object, other: object) -> None:
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1, 2, 3}, {3, 2, 1}),
        (torch.arange(6).reshape(2, 3).t().contiguous(), torch.arange(6).reshape(2, 3).t()),
        (make("def f(x):\n  return x  # a comment"), make("def f(x):\n\n  return x")),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss()),
        (np.float32(1).item(), 1.0),
    ],
)
def test_what_means_the_same_agrees(one: object, other: object) -> None:
    assert fingerprint(one) == fingerprint(other)


def test_a_closure_counts() -> None:
    def outer(k: int) -> Any:
        return lambda x: x + k

    assert fingerprint(outer(1)) == fingerprint(outer(1))
    assert fingerprint(outer(1)) != fingerprint(outer(2))


def test_circles_end() -> None:
    circle: list[object] = [1]
    circle.append(circle)
    assert fingerprint(circle) == fingerprint(circle)


def test_a_view_that_is_many_times_its_data_is_not_copied_out() -> None:
    data = np.arange(200_000, dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(data, 100_000)  # 40 GB, if it were
    assert fingerprint(windows) == fingerprint(np.lib.stride_tricks.sliding_window_view(data.copy(), 100_000))
    assert fingerprint(windows) != fingerprint(np.lib.stride_tricks.sliding_window_view(data + 1, 100_000))
    wide = torch.zeros(1).expand(1 << 36)
    assert fingerprint(wide) != fingerprint(torch.ones(1).expand(1 << 36))


HELPERS = {
    "fp_low": "SIZE = 16\ndef crop(x): return x + 1 if x in (1, 2) else (1, 2)\ndef other(x): return x",
    "fp_high": "import fp_low\nfrom fp_low import crop\ndef a(x): return crop(x)\ndef b(x): return fp_low.crop(x)",
    "fp_user": """
        import functools
        import fp_high
        from fp_high import a, b
        def by_name(x): return a(x)
        def by_name_through_a_module(x): return b(x)
        def by_attribute(x): return fp_high.a(x)
        def by_module_in_a_module(x): return fp_high.fp_low.crop(x)
        def in_a_comprehension(x): return [fp_high.b(y) for y in x]
        part = functools.partial(a)
        def by_partial(x): return part(x)
        @functools.cache
        def kept(x): return a(x)
        def by_cached(x): return kept(x)
        class by_method:
            def go(self, x): return a(x)
        class by_class_attribute:
            steps = (a,)
        class by_cached_property:
            @functools.cached_property
            def go(self): return a(1)
        by_object = by_method()
    """,
}
WAYS = [
    "by_name",
    "by_name_through_a_module",
    "by_attribute",
    "by_module_in_a_module",
    "in_a_comprehension",
    "by_partial",
    "by_cached",
    "by_method",
    "by_class_attribute",
    "by_cached_property",
    "by_object",
]
Import = Callable[..., types.ModuleType]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Imports the user's module anew, with text of its helpers replaced."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file within one second

    def forget() -> None:
        for name in HELPERS:
            sys.modules.pop(name, None)

    def write(old: str = "", new: str = "") -> types.ModuleType:
        forget()
        for name, text in HELPERS.items():
            text = textwrap.dedent(text)
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
        importlib.invalidate_caches()
        return importlib.import_module("fp_user")

    yield write
    forget()


@pytest.mark.parametrize("way", WAYS)
def test_a_helper_in_another_module_counts(user: Import, way: str) -> None:
    before = fingerprint(getattr(user(), way))
    assert fingerprint(getattr(user(), way)) == before
    assert fingerprint(getattr(user("x + 1", "x + 2"), way)) != before


@pytest.mark.parametrize("way", WAYS)
def test_what_a_helper_module_holds_besides_does_not_count(user: Import, way: str) -> None:
    before = fingerprint(getattr(user(), way))
    assert fingerprint(getattr(user("def other(x): return x", "def other(x): return -x"), way)) == before
    assert fingerprint(getattr(user("SIZE = 16", "SIZE = 17"), way)) == before


def test_helpers_agree_in_another_process(user: Import, tmp_path: Path) -> None:
    module = user()
    ours = fingerprint([getattr(module, way) for way in WAYS])
    code = "import fp_user as u; from torchspeed.fingerprint import fingerprint as f; "
    code += f"print(f([getattr(u, way) for way in {WAYS}]))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": "7"}
    for _ in range(2):  # compiled, and read from the file of bytecode that the first one left
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == ours


def test_helpers_that_name_each_other_end_however_long_the_chain() -> None:
    links = "\n".join(f"def f{i}(): return f{i + 1}()" for i in range(3000))
    chain = [make(f"{links}\ndef f3000(): return f0() + {k}\ndef f(): return f0()") for k in (1, 2)]
    assert fingerprint(chain[0]) != fingerprint(chain[1])


@pytest.mark.parametrize("place", ["site-packages", "project"])
def test_an_installed_package_counts_by_its_version_and_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def made(body: str, release: str) -> str:
        module = types.ModuleType("fp_package")
        module.__file__ = str(tmp_path / place / "fp_package.py")
        module.__dict__["__version__"] = release
        monkeypatch.setitem(sys.modules, "fp_package", module)
        exec(f"class Resize:\n  def __call__(self, x): return {body}", module.__dict__)
        return fingerprint([module.Resize(), module.Resize])

    installed = place == "site-packages"
    assert (made("x", "1.0") == made("-x", "1.0")) is installed
    assert (made("x", "1.0") != made("x", "2.0")) is installed
