"""A whole step (zero, forward, backward, clip, update) recorded once as a CUDA graph and launched as one.

Physically: the host launches some thousand kernels per step at 5 to 10 µs each; where they run shorter than that, the
GPU waits for Python. A graph keeps all launches with their arguments on the driver's side, and one call starts them
all. It wins for small models and batches on fast GPUs. It loses memory (what the step allocates is its own from then
on) and flexibility: shapes are fixed, so a batch of another shape, such as an uneven last one, runs as written, and so
do the first steps after a layer is switched between training and evaluation; what Python decided while it was recorded
(a layer dropped by ``random``, a counter) is decided for good; and nothing in the step may wait for the GPU
(``.item()``, printing). Random numbers on the GPU and learning rates do change from step to step. CLOSE: an optimizer
that can be recorded corrects its averages in fp32 on the GPU instead of in Python.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html, "Whole-network capture"; Ng et al., "Accelerating PyTorch
with CUDA Graphs", 2021
"""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchspeed.batch import map_tensors
from torchspeed.errors import NotApplicable, PlanError
from torchspeed.facts import Facts
from torchspeed.job import Batch
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.optim.tensor_rates import tensor_rates
from torchspeed.run import Run, Step

WARM_UP = 3  # steps as written, in which libraries set themselves up and the optimizer makes its state


def make_capturable(optimizer: Optimizer) -> None:
    """Let ``optimizer`` keep its step counts on the GPU, where a graph can advance them."""
    for options in (optimizer.defaults, *optimizer.param_groups):
        if "capturable" in options:
            options["capturable"] = True
    optimizer._warned_capturable_if_run_uncaptured = True  # a few steps are run so on purpose
    for parameter, state in optimizer.state.items():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(parameter.device)


def graphed(step: Step, model: nn.Module, optimizer: Optimizer, device: torch.device) -> Step:
    """``step`` (batch -> loss), recorded when ``WARM_UP`` batches of one shape have been trained on, then replayed.

    Every call is one step of the training, none is spent on recording. ``optimizer`` must be capturable.
    Raises PlanError where the step does something that cannot be recorded.
    """
    return _Graphed(step, model, optimizer, device)


class _Graphed:
    def __init__(self, step: Step, model: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
        self.step, self.model, self.optimizer, self.device = step, model, optimizer, device
        self.modules = list(model.modules())  # asked in each step, where walking the tree would take ten times as long
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.seen, self.times = "", 0
        self.recorded: str | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Tensor:
        described = _describe(batch, self.optimizer, self.modules)
        if described != self.recorded:
            self.times = self.times + 1 if described == self.seen else 1
            self.seen = described
            if self.times <= WARM_UP:
                return self.as_written(batch)
            self.record(batch, described)
        return self.replay(batch)

    def as_written(self, batch: Batch) -> Tensor:
        """On the stream that records, since gradients are accumulated on the stream where they first were."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            loss = self.step(batch)
        current.wait_stream(self.stream)
        return loss

    def record(self, batch: Batch, described: str) -> None:
        self.recorded = self.graph = None  # its memory is free before the next one takes its own
        self.batch = map_tensors(batch, lambda tensor: torch.empty_like(tensor, device=self.device))
        groups = self.optimizer.param_groups
        self.rates = [torch.zeros((), device=self.device) for _ in groups]
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: loader threads may go on pinning memory meanwhile
            with (
                tensor_rates(self.optimizer, self.rates),
                torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
            ):
                self.loss = self.step(self.batch)
        except RuntimeError as error:
            line = str(error).splitlines()[0]
            raise PlanError(f"the step cannot be recorded: {line}; set cuda_graphs to {AS_WRITTEN!r}") from error
        self.gradients = [(parameter, parameter.grad) for parameter in self.model.parameters()]
        self.graph, self.recorded = graph, described

    def replay(self, batch: Batch) -> Tensor:
        for place, tensor in zip(_tensors(self.batch), _tensors(batch), strict=True):
            pinned = tensor.pin_memory() if tensor.device.type == "cpu" else tensor
            place.copy_(pinned, non_blocking=True)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        assert self.graph is not None
        self.graph.replay()
        for parameter, gradient in self.gradients:  # a step as written in between has put its own there
            parameter.grad = gradient
        return self.loss.clone()  # the next replay overwrites it


@final
class CudaGraphs(Lever):
    name = "cuda_graphs"
    pillar = "hardware"
    stage = Stage.STEP
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.OVERHEAD})
    usual_gain = 1.6
    conflicts = frozenset({"compile"})

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "step")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if machine.device != "cuda":
            raise NotApplicable(f"CUDA graphs need an NVIDIA GPU; this is {machine.device_name}")
        if facts.optimizer != "SGD" and "capturable" not in facts.optimizer_options:
            raise NotApplicable(
                f"{facts.optimizer or 'the optimizer'} has no capturable=True, so it cannot be recorded"
            )
        if facts.has_sparse_gradients:
            raise NotApplicable("sparse gradients have another size in each step, so they cannot be recorded")

    def apply(self, run: Run, option: Option) -> None:
        if not run.holds_loop:
            raise NotApplicable("the loop is your own, so there is no whole step to record")
        group = run.optimizer.param_groups[0]
        if "capturable" not in group and group.get("foreach") is False and not group.get("fused"):
            raise NotApplicable(
                f"{type(run.optimizer).__name__} as a for-loop reads its learning rate on the host, "
                'so it cannot be recorded; optimizer_impl="foreach" can'
            )
        make_capturable(run.optimizer)
        run.step_wrappers.append(lambda step: _graphed_run(step, run))


def _graphed_run(step: Step, run: Run) -> Step:
    if run.scaler is not None:
        raise PlanError(
            "cuda_graphs and precision=fp16 exclude each other: a scaled step waits for the GPU to see whether its "
            f"gradients are finite; set one of them to {AS_WRITTEN!r}, or precision to bf16"
        )
    return graphed(step, run.model, run.optimizer, run.device)


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(batch, found.append)
    return found


def _describe(batch: Batch, optimizer: Optimizer, modules: Iterable[nn.Module] = ()) -> str:
    """All that is fixed in a recording: the batch but for the numbers in its tensors; settings but learning rates;
    which of ``modules`` are in evaluation mode, since any forward may ask ``self.training``."""
    shapes = map_tensors(batch, lambda tensor: (tensor.shape, tensor.stride(), tensor.dtype))
    settings = [
        (name, id(value) if isinstance(value, Tensor) else value)
        for group in optimizer.param_groups
        for name, value in _settings(group).items()
    ]
    evaluating = [number for number, module in enumerate(modules) if not module.training]
    return f"{shapes} {settings} {evaluating}"


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "lr")}
