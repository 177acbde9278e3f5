"""The levers of the hardware pillar: each reaches what it is about, keeps what was there, or says why it cannot."""

import ctypes
import functools
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import torchspeed
from torchspeed import Machine, Plan
from torchspeed.engine.step import make_step
from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.levers.hardware import allocator, compile, cuda_graphs, precision
from torchspeed.levers.hardware.allocator import Allocator, with_settings
from torchspeed.levers.hardware.compile import Compile, compile_blocks, compile_in_place, repeated_blocks
from torchspeed.levers.hardware.cuda_graphs import CudaGraphs
from torchspeed.levers.hardware.flush_denormals import FlushDenormals
from torchspeed.levers.hardware.precision import autocast_forward

HERE = Machine.detect("cpu")


def linear_job(**changes: Any) -> torchspeed.Job:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 8, generator=generator)
    fields: dict[str, Any] = {
        "name": "linear",
        "model": lambda: nn.Sequential(nn.Linear(8, 4, bias=False)),
        "train": (inputs, inputs[:, :4].argmax(1)),
        "loss": nn.CrossEntropyLoss(),
        "optimizer": lambda params: torch.optim.Adam(params, lr=1e-2),
        "metric": "loss",
        "batch_size": 16,
        "epochs": 2,
    }
    return torchspeed.Job(**{**fields, **changes})


def build(plan: Plan, **changes: Any) -> torchspeed.Run:
    return torchspeed.build(linear_job(**changes), plan, HERE)


def steps(run: torchspeed.Run, count: int = 4) -> list[float]:
    """Losses of the first steps; a schedule is moved as the engine moves it."""
    step, losses = make_step(run), []
    for number in range(count):
        losses.append(float(step(run.loader.batch(0, number))))
        if run.schedule is not None:
            run.schedule.step()
    return losses


def captured() -> int:
    return counters["stats"]["unique_graphs"]


def machine(**changes: Any) -> Machine:
    return Machine(**{**HERE.__dict__, **changes})


# compile


def test_a_compiled_run_resumes_and_its_weights_keep_their_names(tmp_path: Path) -> None:
    train = functools.partial(torchspeed.train, progress=False, device="cpu")
    plan = Plan.of(compile="default")
    counters.clear()
    whole = train(linear_job(), plan, run_dir=tmp_path / "whole")
    assert captured() > 0
    assert whole.applied == ("compile=default",)
    train(linear_job(epochs=1), plan, run_dir=tmp_path / "cut")
    resumed = train(linear_job(), resume=tmp_path / "cut")
    written = train(linear_job(), Plan(), run_dir=tmp_path / "written")
    for name, weight in written.model.state_dict().items():
        assert torch.equal(whole.model.state_dict()[name], resumed.model.state_dict()[name])
        torch.testing.assert_close(whole.model.state_dict()[name], weight)


@pytest.mark.usefixtures("captured_only")
def test_a_sequence_is_compiled_where_gradients_are_recorded() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    compile_in_place(model)
    with torch.no_grad():
        model(torch.ones(2, 4))
    assert captured() == 0
    model(torch.ones(2, 4)).sum().backward()
    assert captured() == 1


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def test_blocks_are_repeated_modules_with_layers_in_them() -> None:
    stages = nn.Sequential(nn.Sequential(Block(4), Block(4)), nn.Sequential(Block(4), Block(4), nn.Linear(4, 2)))
    assert [type(block) for block in repeated_blocks(stages)] == [Block] * 4
    triples = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
    assert repeated_blocks(triples) == list(triples)
    assert repeated_blocks(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))) == []


@pytest.mark.usefixtures("captured_only")
def test_equal_blocks_share_one_compilation() -> None:
    model = nn.Sequential(*(Block(4) for _ in range(3)), nn.Linear(4, 5), *(Block(5) for _ in range(2)))
    inputs = torch.ones(2, 4, requires_grad=True)
    expected = model(inputs)
    compile_blocks(repeated_blocks(model))
    torch.testing.assert_close(model(inputs), expected)
    assert captured() == 2


@pytest.mark.usefixtures("captured_only")
def test_a_compiled_step_follows_the_schedule_without_compiling_again() -> None:
    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    written = steps(build(Plan(), schedule=schedule))
    run = build(Plan.of(compile="step"), schedule=schedule)
    hooked: list[float] = []
    run.optimizer.register_step_post_hook(lambda optimizer, *_: hooked.append(optimizer.param_groups[0]["lr"]))
    first = steps(run, 1)
    graphs = captured()
    assert [*first, *steps(run, 4)[1:]] != first
    assert captured() == graphs
    assert hooked == pytest.approx([0.01 * 0.5**n for n in range(5)])
    assert steps(build(Plan.of(compile="step"), schedule=schedule)) == pytest.approx(written, rel=1e-5)


def test_what_is_compiled_already_is_left_alone() -> None:
    def model() -> nn.Module:
        return torch.compile(nn.Linear(8, 4))  # type: ignore[return-value]

    assert "compiled already" in build(Plan.of(compile="default"), model=model).skipped[0]


@pytest.mark.parametrize("option", ["reduce-overhead", "max-autotune"])
def test_modes_that_are_for_gpus_are_not_offered_on_a_cpu(option: str) -> None:
    with pytest.raises(NotApplicable, match="on a CPU"):
        Compile().check(Facts(), HERE, option)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "icpx")
    with pytest.raises(NotApplicable, match=r"needs a C\+\+ compiler; found no icpx; install .* or set CXX"):
        Compile().check(Facts(), HERE, "default")


def test_an_unwritable_cache_is_said_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(compile, "_check_cpp_compiler", lambda: None)
    with pytest.raises(NotApplicable, match=r"cannot write to its cache folder .*/file/cache; set TORCHINDUCTOR"):
        Compile().check(Facts(), HERE, "default")


# cuda_graphs and cudnn_benchmark


@pytest.mark.parametrize("name", ["cuda_graphs", "cudnn_benchmark"])
def test_what_is_for_gpus_says_so_on_a_cpu(name: str) -> None:
    option = {"cuda_graphs": "step", "cudnn_benchmark": "on"}[name]
    assert f"this is {HERE.device_name}" in build(Plan.of(**{name: option})).skipped[0]


def test_only_optimizers_that_can_be_recorded_are() -> None:
    gpu = machine(device="cuda", device_name="H200", compute_capability=(9, 0))
    CudaGraphs().check(Facts(optimizer="SGD"), gpu, "step")
    CudaGraphs().check(Facts(optimizer="Adam", optimizer_options=frozenset({"capturable"})), gpu, "step")
    with pytest.raises(NotApplicable, match="Lion has no capturable=True"):
        CudaGraphs().check(Facts(optimizer="Lion"), gpu, "step")


def test_a_recording_holds_for_batches_of_one_shape_and_settings() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)
    described = cuda_graphs._describe((torch.zeros(4, 2), torch.zeros(4)), optimizer)
    optimizer.param_groups[0]["lr"] = 0.05
    assert cuda_graphs._describe((torch.ones(4, 2), torch.ones(4)), optimizer) == described
    assert cuda_graphs._describe((torch.ones(3, 2), torch.ones(3)), optimizer) != described
    optimizer.param_groups[0]["momentum"] = 0.8
    assert cuda_graphs._describe((torch.ones(4, 2), torch.ones(4)), optimizer) != described


# allocator

FAULTS = """
import resource, sys, torch
torch.set_num_threads(1)
def faults():
    for _ in range(4): torch.ones(10 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3): kept = torch.ones(10 << 20); del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = second = faults()
if "mallopt" in sys.argv:
    from torchspeed.levers.hardware.allocator import keep_freed_memory
    keep_freed_memory()
    second = faults()
kept = torch.ones(10 << 20)
huge = sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
print(first, second, huge)
"""
PAGES = 3 * (40 << 20) // os.sysconf("SC_PAGE_SIZE")


def faults(variables: Mapping[str, str] | None = None, *arguments: str) -> tuple[int, int, int]:
    """Page faults of three arrays of 40 MiB, in a fresh process and after the lever, and KiB in huge pages."""
    command = [sys.executable, "-c", FAULTS, *arguments]
    done = subprocess.run(command, env={**os.environ, **(variables or {})}, capture_output=True, text=True, check=True)
    first, second, huge = map(int, done.stdout.split())
    return first, second, huge


def test_kept_memory_has_no_page_faults() -> None:
    try:
        Allocator().check(Facts(), HERE, "glibc")
    except NotApplicable as reason:
        pytest.skip(str(reason))
    as_written, kept, _ = faults(None, "mallopt")
    assert as_written > 0.9 * PAGES
    assert kept < 0.1 * PAGES


def test_huge_pages_reach_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        Allocator().check(Facts(), HERE, "huge-pages")
    except NotApplicable as reason:
        pytest.skip(str(reason))
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")
    variables = Allocator().environ("huge-pages")
    assert variables["GLIBC_TUNABLES"].startswith("glibc.malloc.arena_max=4:glibc.malloc.hugetlb=1:")
    after_start, _, huge = faults(variables)
    assert after_start < 0.1 * PAGES
    assert huge > 32 << 10


def test_an_allocator_that_the_process_was_not_started_with_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_check_huge_pages", lambda version: None)
    monkeypatch.setattr(allocator, "_glibc", lambda: (2, 36))
    skipped = build(Plan.of(allocator="huge-pages")).skipped[0]
    assert "start this process with GLIBC_TUNABLES=" in skipped


@pytest.mark.parametrize("name", ["jemalloc", "tcmalloc"])
def test_an_installed_allocator_is_loaded_beside_what_is_loaded_already(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        Allocator().check(Facts(), HERE, name)
    except NotApplicable as reason:
        pytest.skip(str(reason))
    library = allocator.find_allocator(name)
    monkeypatch.setenv("LD_PRELOAD", "libm.so.6")
    variables = Allocator().environ(name)
    assert variables["LD_PRELOAD"] == f"libm.so.6:{library}"
    symbol = {"jemalloc": "mallctl", "tcmalloc": "tc_version"}[name]
    probe = f"import ctypes; print(hasattr(ctypes.CDLL(None), {symbol!r}))"
    environment = {**os.environ, **variables}
    printed = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "True"
    assert faults(variables)[0] < 0.1 * PAGES


def test_a_library_is_found_where_programs_look_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libjemalloc.so.2").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "libjemalloc.so.2"))
    monkeypatch.setenv("MALLOC_CONF", "narenas:2,dirty_decay_ms:10")
    variables = Allocator().environ("jemalloc")
    assert variables["LD_PRELOAD"] == str(tmp_path / "libjemalloc.so.2"), "once, not twice"
    assert variables["MALLOC_CONF"].startswith("narenas:2,dirty_decay_ms:-1,")
    assert "was not loaded" in str(apply_in(monkeypatch, variables, "jemalloc"))


def apply_in(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], option: str) -> NotApplicable:
    """What the lever says in this process when it has the variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotApplicable) as raised:
        Allocator().apply(build(Plan()), option)
    return raised.value


@pytest.mark.skipif(hasattr(ctypes.CDLL(None), "mallctl"), reason="this process has jemalloc already")
def test_settings_of_the_users_own_stay() -> None:
    assert with_settings(None, {"a": "1"}, "=", ":") == "a=1"
    assert with_settings("b=2:a=0", {"a": "1"}, "=", ":") == "b=2:a=1"
    users = "roundup_power2_divisions:[256:1,512:2],expandable_segments:False,max_split_size_mb:64"
    merged = with_settings(users, {"expandable_segments": "True"}, ":", ",")
    assert merged == "roundup_power2_divisions:[256:1,512:2],max_split_size_mb:64,expandable_segments:True"
    assert with_settings(merged, {"expandable_segments": "True"}, ":", ",") == merged


def test_gpu_settings_go_where_the_users_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert Allocator().environ("expandable") == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert Allocator().environ("expandable") == {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64,expandable_segments:True"}


# flush_denormals

DENORMALS = """
import torch
from torchspeed.levers.hardware.flush_denormals import flush_denormals, flushes_denormals
torch.set_num_threads(2)
(torch.ones(1 << 20) + 1).sum()
print(flushes_denormals(), flush_denormals(), flushes_denormals(), flush_denormals(False), flushes_denormals())
torch.set_flush_denormal(True)
torch.set_num_threads(2)
print(flushes_denormals())
"""


def test_denormals_are_flushed_in_threads_that_are_there_already() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor does not flush denormals")
    done = subprocess.run([sys.executable, "-c", DENORMALS], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "False True True True False"
    assert second == "False", "the bit of the calling thread alone does not reach the pool"


def test_gpus_need_no_flushing() -> None:
    with pytest.raises(NotApplicable, match="H200 computes with denormals at full speed"):
        FlushDenormals().check(Facts(), machine(device="cuda", device_name="H200"), "on")


# precision in a loop of the user's own, and fp8


class Answer(OrderedDict[str, Any]):
    pass


class Answers(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        self.inside = y.dtype
        return Answer(logits=y, number=3)


def test_a_model_in_low_precision_answers_in_fp32() -> None:
    model = Answers(4, 4)
    autocast_forward(model, torch.bfloat16)
    answer = model(torch.ones(1, 4))
    assert model.inside is torch.bfloat16
    assert isinstance(answer, Answer)
    assert (answer["logits"].dtype, answer["number"]) == (torch.float32, 3)
    assert list(model.state_dict()) == ["weight", "bias"]


def test_in_a_loop_of_the_users_own_the_model_itself_is_cast() -> None:
    run = build(Plan())
    run.holds_loop = False
    precision.Precision().apply(run, "bf16")
    assert run.step_contexts == []
    assert run.model(torch.ones(1, 8)).dtype is torch.float32
    with pytest.raises(NotApplicable, match="needs a gradient scaler in the loop"):
        precision.Precision().apply(run, "fp16")
    for lever in (CudaGraphs(), Compile()):
        with pytest.raises(NotApplicable, match="the loop is your own"):
            lever.apply(run, "step")


def test_fp8_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    ampere = machine(device="cuda", device_name="A100", compute_capability=(8, 0))
    with pytest.raises(NotApplicable, match=r"fp8 needs a GPU of compute capability 8\.9; this is A100, 8\.0"):
        precision.Precision().check(Facts(layers=frozenset({"Linear"})), ampere, "fp8")
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(NotApplicable, match=r"pip install 'torchspeed\[fp8\]'"):
        precision.to_fp8(nn.Linear(16, 16))
