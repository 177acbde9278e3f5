"""The model's operations translated into a few kernels by ``torch.compile`` instead of being called one by one.

Physically: every operation reads its inputs from memory and writes its output; a compiler that sees several of them
fuses them into one loop, which reads and writes once, and replaces Python between them. "default" compiles the whole
model; "reduce-overhead" also replays it as CUDA graphs; "max-autotune" also tries out kernels for matrix products;
"regional" compiles each of the repeated blocks by itself, so that one compilation serves all of them; "step" compiles
model and loss as one graph, and the optimizer. It wins with many elementwise operations between products, and with
small ones that wait for Python. It loses the time to compile (10 to 20 s for a small network whose cache is cold, 2 s
when it is warm, minutes for large ones), again for each new shape, such as an uneven last batch (the second shape
makes sizes variable, which costs one more compilation and some speed); and where vendor kernels do all the work it is
no faster: a 3-convolution CNN, 540 images/s without and 456 with it. Evaluations, which record no gradients, run as
written. CLOSE: fused sums are taken in another order.

``Module.compile`` silently compiles nothing where a module's forward is PyTorch's own, as in ``nn.Sequential``
(https://github.com/pytorch/pytorch/issues/150915), so here each compiled call starts from a frame of our own.

Source: Ansel et al., "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
Compilation", ASPLOS 2024; https://docs.pytorch.org/tutorials/recipes/regional_compilation.html
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine, environment
from torchspeed.optim.tensor_rates import tensor_rates
from torchspeed.run import Run

_MODES = ("default", "reduce-overhead", "max-autotune")
_CONTAINERS = (nn.ModuleList, nn.Sequential)


def compile_in_place(module: nn.Module, mode: str = "default", code: types.CodeType | None = None) -> types.CodeType:
    """Calls of ``module`` that record gradients run compiled; names in its ``state_dict`` stay.

    What is compiled is kept with the code it starts from. Modules of one structure share it when they are given the
    ``code`` that the first of them returned.
    """

    def call(*arguments: Any, **options: Any) -> Any:
        return module._call_impl(*arguments, **options)  # type: ignore[no-untyped-call]

    call.__code__ = code or call.__code__.replace()
    compiled = torch.compile(call, mode=mode)
    module._compiled_call_impl = _where_gradients_are_recorded(compiled, module._call_impl)
    return call.__code__


def compile_blocks(blocks: list[nn.Module]) -> None:
    """Compile each of ``blocks`` by itself; those of the same class and shapes share one compilation."""
    codes: dict[Any, types.CodeType] = {}
    for block in blocks:
        structure = type(block), tuple(parameter.shape for parameter in block.parameters())
        codes[structure] = compile_in_place(block, code=codes.get(structure))


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost modules with layers in them that stand beside others of their class in a list or sequence."""
    repeated: set[nn.Module] = set()
    if isinstance(module, _CONTAINERS):
        kinds = Counter(type(child) for child in module)
        repeated = {child for child in module if kinds[type(child)] > 1 and next(child.children(), None) is not None}
    blocks: list[nn.Module] = []
    for child in module.children():
        within = repeated_blocks(child)
        is_stage = isinstance(child, _CONTAINERS) and within
        blocks += [child] if child in repeated and not is_stage else within
    return blocks


def compile_optimizer(optimizer: Optimizer) -> None:
    """``optimizer.step`` compiled in place; learning rates are tensors within it, so that a schedule can move them."""
    written = type(optimizer).step
    if getattr(written, "hooked", False):  # hooks and the profiler's mark stay outside of the graph
        written = written.__wrapped__  # type: ignore[attr-defined]
    compiled = torch.compile(written)

    @Optimizer.profile_hook_step
    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> Any:
        if closure is not None:
            return written(self, closure)
        with tensor_rates(self, [torch.as_tensor(group["lr"]) for group in self.param_groups]):
            return compiled(self)

    optimizer.step = types.MethodType(step, optimizer)  # type: ignore[method-assign]


@final
class Compile(Lever):
    name = "compile"
    pillar = "hardware"
    stage = Stage.STEP
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.COMPUTE, Bound.MEMORY, Bound.OVERHEAD})
    usual_gain = 1.13
    conflicts = frozenset({"cuda_graphs"})

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, *_MODES, "regional", "step")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if machine.device == "cpu":
            if option == "reduce-overhead":
                raise NotApplicable("reduce-overhead replays CUDA graphs; on a CPU it is the same as default")
            if option == "max-autotune":
                raise NotApplicable("max-autotune tries out GPU kernels; on a CPU a training gets those of default")
            _check_cpp_compiler()
        elif machine.device == "cuda":
            _check_triton(machine)
        else:
            raise NotApplicable(f"torch.compile for {machine.device_name} is a prototype")
        _check_cache_folder()

    def apply(self, run: Run, option: Option) -> None:
        if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in run.model.modules()):
            raise NotApplicable("the model is compiled already, as it is written")
        if option == "regional":
            blocks = repeated_blocks(run.model)
            if not blocks:
                raise NotApplicable("the model has no list or sequence with several blocks of one class")
            compile_blocks(blocks)
        elif option == "step":
            if not run.holds_loop:
                raise NotApplicable(
                    "the loop is your own: loss and optimizer are called there; default compiles the model"
                )
            compute_loss = run.compute_loss
            run.compute_loss = _where_gradients_are_recorded(torch.compile(compute_loss), compute_loss)
            compile_optimizer(run.optimizer)
        else:
            compile_in_place(run.model, str(option))


def _where_gradients_are_recorded(compiled: Callable[..., Any], written: Callable[..., Any]) -> Callable[..., Any]:
    """``compiled`` in training steps; elsewhere ``written``, for which compiling once more seldom pays."""

    def call(*arguments: Any, **options: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else written)(*arguments, **options)

    return call


def _check_cpp_compiler() -> None:
    """As TorchInductor looks for it, without its first compilation."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = environment("CXX") or usual
    if shutil.which(compiler) is None:
        raise NotApplicable(f"torch.compile needs a C++ compiler; found no {compiler}; install {usual} or set CXX")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise NotApplicable(f"torch.compile needs {header}; on Debian and Ubuntu: apt install python3-dev")


def _check_triton(machine: Machine) -> None:
    capability = machine.compute_capability or (0, 0)
    if capability < (7, 0):
        raise NotApplicable(
            f"torch.compile needs a GPU of compute capability 7.0; this is {machine.device_name}, "
            f"{capability[0]}.{capability[1]}"
        )
    if importlib.util.find_spec("triton") is None:
        raise NotApplicable("torch.compile for GPUs needs Triton; run: pip install triton")
    compilers = [environment("CC")] if environment("CC") else ["gcc", "clang"]
    if not any(shutil.which(str(compiler)) for compiler in compilers):
        raise NotApplicable(
            f"Triton needs a C compiler; found no {' or '.join(map(str, compilers))}; install one or set CC"
        )


def _check_cache_folder() -> None:
    named = environment("TORCHINDUCTOR_CACHE_DIR")
    folder = Path(named or tempfile.gettempdir()).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise NotApplicable(f"torch.compile cannot write to its cache folder {folder}; set TORCHINDUCTOR_CACHE_DIR")
