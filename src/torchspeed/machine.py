"""``Machine``: what there is to train on. The only place, with the command line, that reads the environment."""

import functools
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from torchspeed.errors import DeviceError
from torchspeed.fingerprint import fingerprint

DEVICES = ("cuda", "mps", "cpu")


@dataclass(frozen=True)
class Machine:
    """One device to train on and the host it sits in. Memory in bytes; ``cores`` are those this process may use."""

    device: str
    device_name: str
    device_count: int
    device_memory: int
    compute_capability: tuple[int, int] | None
    cpu: str
    cores: int
    memory: int
    instruction_sets: tuple[str, ...]
    system: str
    versions: tuple[tuple[str, str], ...]

    @classmethod
    def detect(cls, device: str | None = None) -> "Machine":
        """What is here. ``device``: "cuda", "mps" or "cpu"; None takes the first of them that is there.

        Raises DeviceError when the device asked for is missing.
        """
        there = [name for name in DEVICES if _available(name)]
        if device is not None and device not in DEVICES:
            raise DeviceError(f"unknown device {device!r}; valid: {', '.join(DEVICES)}")
        if device is not None and device not in there:
            raise DeviceError(
                f"device {device!r} was asked for, but {_why_missing(device)}; here there is: {', '.join(there)}"
            )
        chosen = device or there[0]
        cpu, sets = _cpu()
        name, count, memory, capability = cpu, 1, _memory(), None
        if chosen == "cuda":
            properties = torch.cuda.get_device_properties(0)
            name, count, memory = properties.name, torch.cuda.device_count(), properties.total_memory
            capability = (properties.major, properties.minor)
        elif chosen == "mps":
            name = f"Apple GPU ({cpu})"
        return cls(
            device=chosen,
            device_name=name,
            device_count=count,
            device_memory=memory,
            compute_capability=capability,
            cpu=cpu,
            cores=usable_cores(),
            memory=_memory(),
            instruction_sets=sets,
            system=f"{platform.system()} {platform.machine()}",
            versions=versions(),
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "versions": dict(self.versions)}

    def __str__(self) -> str:
        host = f"{self.cores} cores, {self.memory / 2**30:.0f} GiB"
        versions = dict(self.versions)
        if self.device == "cpu":
            return f"cpu: {self.cpu}, {host} · torch {versions['torch']}"
        count = f"{self.device_count} × " if self.device_count > 1 else ""
        return f"{self.device}: {count}{self.device_name}; {self.cpu}, {host} · torch {versions['torch']}"


def cache_folder() -> Path:
    """Where what was computed once is kept for this user, unless another folder is named."""
    own = environment("TORCHSPEED_CACHE")
    return Path(own) if own else Path(environment("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchspeed"


def free_memory() -> int:
    """Bytes that can be had without swapping: what the system says, or what is left of a container's share."""
    free = _memory()
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(free, 0)


def environment(name: str) -> str | None:
    """A variable of the environment, read here so that nothing else does."""
    return os.environ.get(name)


def environment_of_training() -> dict[str, str]:
    """Variables that change how fast a training is: threads, allocators, PyTorch's own."""
    names = ("OMP_", "MKL_", "KMP_", "GOMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "PYTORCH_", "TORCH", "CUDA_")
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(names)}


def busy(machine: Machine) -> str:
    """The sentence that other processes want the cores as well, or ""."""
    with suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
        if load > 0.5 * machine.cores:
            return f"{load:.1f} processes were running when it began (cores: {machine.cores})"
    return ""


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process to be started: this one's, with ``variables`` in it."""
    return {**os.environ, **variables}


def _available(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_available()
    return device == "cpu" or torch.backends.mps.is_available()


def _why_missing(device: str) -> str:
    if device == "cuda" and torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    if device == "cuda":
        return f"PyTorch (built for CUDA {torch.version.cuda}) finds no usable GPU or driver"
    return "this is not a Mac with an Apple GPU, or PyTorch is built without MPS"


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


@functools.cache
def _cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's name and those of its instruction sets that matter to training."""
    info: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            info.setdefault(key.strip(), value.strip())
    flags = set((info.get("flags") or info.get("Features") or "").split())
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "bf16", "asimdhp", "sve")
    name = info.get("model name") or platform.processor() or platform.machine()
    return name, tuple(flag for flag in known if flag in flags)


def _own_version() -> str:
    try:
        return version("torchspeed")
    except PackageNotFoundError:
        return "not installed"


def versions() -> tuple[tuple[str, str], ...]:
    """(name, version) of what results depend on."""
    return (
        ("torchspeed", _own_version()),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("numpy", version("numpy")),
        ("cuda", torch.version.cuda or "none"),
    )
