"""Images in a device's memory go through the same instructions as on the host and come out the same.

PyTorch's code is the same for every device, so most of it is tested on the CPU; what only a GPU can show is at the end.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import torchspeed
from torchspeed.data.kernels.resample import FILTERS
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.pipeline import compile as compile_module
from torchspeed.data.pipeline import device_geometry
from torchspeed.data.pipeline.compile import compile_dataset
from torchspeed.data.pipeline.compiled import Lowered
from torchspeed.data.pipeline.device import DeviceImages, play
from torchspeed.data.pipeline.device_renderer import DeviceRenderer
from torchspeed.data.pipeline.device_store import why_not_on_device
from torchspeed.data.pipeline.host import HostImages
from torchspeed.data.pipeline.images import RULES, Fill, Images, Rules
from torchspeed.data.pipeline.parcel import send
from torchspeed.data.pipeline.renderer import Renderer
from torchspeed.data.pipeline.settings import Settings
from torchspeed.data.pipeline.stores import MemoryImages, store_of
from torchspeed.data.random import sample_keys
from torchspeed.errors import NotApplicable
from vision import MEAN, STD, Pictures, pictures, v1, v2

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BATCH = 12
GENERATOR = np.random.default_rng(7)
INDEX = GENERATOR.integers(0, 20, BATCH)
HALF = GENERATOR.random(BATCH) < 0.5
COLOURED, GREY = pictures(20, 40, 48), pictures(20, 31, 29, channels=1)
COLOURED[0] = 77  # of one colour
COLOURED[1] = COLOURED[1, :, :, :1]  # grey
TOP = GENERATOR.integers(-5, 20, BATCH)

Instruction = Callable[[Images], None]


def uniform(low: float, high: float) -> NDArray[np.float64]:
    return GENERATOR.uniform(low, high, BATCH).astype(np.float32).astype(np.float64)


def maps(corner: float) -> NDArray[np.float64]:
    """Turns, scales, shifts; some of them straight, some without any change."""
    turn, scale = uniform(-0.5, 0.5), uniform(0.7, 1.3)
    a, b = np.cos(turn) * scale, np.sin(turn) * scale
    matrices = np.stack([a, b, uniform(-5, 5) + corner, -b, a, uniform(-5, 5) + corner], axis=1)
    matrices[::4, [1, 3]] = 0
    matrices[1] = [1, 0, 3, 0, 1, -2]
    matrices[2] = [1, 0, 0, 0, 1, 0]
    return matrices


def only(where: NDArray[np.bool_], *instructions: Instruction) -> Instruction:
    def run(images: Images) -> None:
        with images.only(where):
            for instruction in instructions:
                instruction(images)

    return run


def resize(height: int, width: int, filter_: str, rules: Rules, whole: bool) -> Instruction:
    def run(images: Images) -> None:
        sides = np.stack([images.heights, images.widths], axis=1)
        generator = np.random.default_rng(3)
        lengths = sides if whole else generator.integers(1, sides + 1)
        starts = generator.integers(0, sides - lengths + 1)
        boxes = np.concatenate([starts, lengths], axis=1)
        images.resize(boxes, np.full(BATCH, height), np.full(BATCH, width), filter_, rules)

    return run


def moves(mode: Any) -> Instruction:
    def run(images: Images) -> None:
        images.pad(3, 4, 5, 2, mode, Fill((9.0,)))
        images.flip_horizontally(HALF)
        images.crop(TOP, TOP[::-1], 20, 30, Fill((200.0,)))
        images.flip_vertically(~HALF)
        images.invert()
        images.pad(1, -2, 1, 1, "constant", Fill((255.0,)))

    return run


def instructions() -> dict[str, Instruction]:
    factors, shifts, sigmas = uniform(0, 2), uniform(-0.5, 0.5), uniform(0.1, 2)
    bits, thresholds, straight = GENERATOR.integers(1, 9, BATCH), uniform(0, 256), maps(0.0)
    straight[:, [1, 3]] = 0
    found: dict[str, Instruction] = {
        "brightness": lambda images: images.brightness(factors),
        "blur": lambda images: images.blur(5, 7, sigmas),
        "posterize": lambda images: images.posterize(bits),
        "solarize": lambda images: images.solarize(thresholds),
        "equalize": lambda images: images.equalize(),
        "invert": lambda images: images.invert(),
        "warp nearest, straight": lambda images: images.warp(straight, "nearest", Fill((3.0,)), "pillow"),
    }
    for rules in RULES:
        found |= {
            f"contrast, {rules}": partial(_do, "contrast", factors, rules),
            f"saturation, {rules}": partial(_do, "saturation", factors, rules),
            f"sharpness, {rules}": partial(_do, "sharpness", factors, rules),
            f"hue, {rules}": partial(_do, "hue", shifts, rules),
            f"autocontrast, {rules}": partial(_do, "autocontrast", rules),
        }
        for filter_, fill in product(("nearest", "bilinear"), (Fill((120.0,)), None)):
            if fill is not None or rules != "pillow":
                name = f"warp {filter_}, {'filled' if fill else 'fading'}, {rules}"
                found[name] = partial(_do, "warp", maps(10.0 if rules == "pillow" else 0.0), filter_, fill, rules)
    found |= {f"{name}, half of them": only(HALF, each) for name, each in found.items()}
    for rules in RULES:
        found[f"grayscale to 3, {rules}"] = partial(_do, "grayscale", 3, rules)
        found[f"grayscale to 1, {rules}"] = partial(_do, "grayscale", 1, rules)
    for filter_, rules in product(FILTERS, RULES[:2]):
        found[f"resize {filter_}, boxes, {rules}"] = resize(20, 24, filter_, rules, whole=False)
        found[f"resize {filter_}, whole, {rules}"] = resize(10, 40, filter_, rules, whole=True)
    for mode in ("constant", "edge", "reflect", "symmetric"):
        found[f"pad {mode}, crop, flip"] = moves(mode)
    found["a chain"] = partial(_chain, factors, maps(5.0))
    return found


def _do(name: str, *arguments: Any) -> None:
    *parameters, images = arguments
    getattr(images, name)(*parameters)


def _chain(factors: NDArray[np.float64], matrices: NDArray[np.float64], images: Images) -> None:
    images.crop(TOP, TOP, 24, 24)
    with images.only(HALF):
        images.brightness(factors)
        images.flip_horizontally(TOP > 5)
        with images.only(TOP > 8):
            images.equalize()
            images.warp(matrices, "nearest", Fill((3.0,)), "pillow")
    resize(30, 30, "bicubic", "pillow", whole=False)(images)
    images.autocontrast("pillow")


INSTRUCTIONS = instructions()


def differs_by(instruction: Instruction, levels: NDArray[np.uint8], device: torch.device) -> int:
    """The most that a level on the device differs from the one on the host."""
    host = HostImages(levels, INDEX)
    instruction(host)
    expected = np.asarray(host.pixels())
    height, width, channels = levels.shape[1:]
    images = DeviceImages(height, width, channels, INDEX)
    instruction(images)
    images.pixels()
    found = play(images.tape, torch.from_numpy(levels).to(device), send(images.arrays, device)).cpu().numpy()
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    return int(np.abs(found.astype(int) - expected).max())


@pytest.mark.parametrize("levels", [COLOURED, GREY], ids=["coloured", "grey"])
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_an_instruction_gives_the_levels_of_the_host(name: str, levels: NDArray[np.uint8]) -> None:
    assert differs_by(INSTRUCTIONS[name], levels, CPU) == 0


END = [v1.ToTensor(), v1.Normalize(MEAN, STD)]
END_V2 = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
BILINEAR = v1.InterpolationMode.BILINEAR
CHAINS: dict[str, Any] = {
    "CIFAR": v1.Compose([v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), *END]),
    "padded after Normalize": v1.Compose([v1.RandomVerticalFlip(), *END, v1.Pad(3, fill=0.5), v1.RandomCrop(32)]),
    "erased": v1.Compose([v1.RandomResizedCrop(24), *END, v1.RandomErasing(0.8, value=(0.1, 0.2, 0.3))]),
    "bytes": v1.Compose([v1.RandomHorizontalFlip(), v1.PILToTensor()]),
    "jitter": v1.Compose([v1.ColorJitter(0.4, 0.4, 0.4, 0.1), v1.RandomGrayscale(0.3), *END]),
    "blur": v1.Compose([v1.RandomApply([v1.GaussianBlur(5)], 0.5), v1.CenterCrop(28), *END]),
    "RandAugment": v1.Compose([v1.RandAugment(), v1.RandomCrop(30), *END]),
    "TrivialAugmentWide": v1.Compose([v1.TrivialAugmentWide(), *END]),
    "v2 affine": v2.Compose([v2.ToImage(), v2.RandomAffine(15, shear=8, interpolation=BILINEAR, fill=50), *END_V2]),
    "v2": v2.Compose(
        [
            v2.ToImage(),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
            v2.RandomResizedCrop(24, antialias=True),
            *END_V2,
        ]
    ),
}


def lowered(transform: Any, images: NDArray[np.uint8] = COLOURED, **options: Any) -> Lowered:
    """On the host."""
    found = compile_dataset(Pictures(images, transform), Settings(placement="none", **options))
    assert isinstance(found, Lowered), found.rows
    return found


def on_device(host: Lowered, device: torch.device) -> Lowered:
    settings = Settings(device=device, channels_last=host.settings.channels_last)
    return Lowered(len(host), host.rows, host.build, host.renderer.program, settings, on_device=True)


@pytest.mark.parametrize(("dtype", "channels_last"), [(None, False), (torch.bfloat16, True), (torch.float16, False)])
@pytest.mark.parametrize("name", CHAINS)
def test_a_program_gives_the_values_of_the_host(name: str, dtype: torch.dtype | None, channels_last: bool) -> None:
    if name == "bytes" and dtype is not None:
        pytest.skip("bytes stay bytes")
    program = lowered(CHAINS[name], dtype=dtype).renderer.program
    keys = sample_keys(3, 1, INDEX)
    expected = Renderer(program, channels_last, pinned=False).images(COLOURED, INDEX, keys)
    found = DeviceRenderer(program, channels_last, CPU).images(torch.from_numpy(COLOURED), INDEX, keys)
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype
    assert found.stride() == expected.stride()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_batches_of_the_host_whatever_workers_it_is_given(workers: int) -> None:
    host = lowered(CHAINS["CIFAR"])
    there = on_device(host, CPU)
    ours, theirs = (
        OrderedLoader(there, 8, seed=4, shuffle=True, workers=workers),
        OrderedLoader(host, 8, seed=4, shuffle=True),
    )
    for mine, other in zip(ours.epoch(2), theirs.epoch(2), strict=True):
        assert all(map(torch.equal, mine, other))
    assert ours._processes is None
    assert there.device_store.levels.shape == COLOURED.shape


def test_only_the_images_of_a_subset_are_moved() -> None:
    indices = [3, 17, 4, 4]
    subset = torch.utils.data.Subset(Pictures(COLOURED, CHAINS["CIFAR"]), indices)
    host = compile_dataset(subset, Settings(placement="none"))
    assert isinstance(host, Lowered)
    there = on_device(host, CPU)
    there.prepare()
    assert np.array_equal(there.device_store.levels.numpy(), COLOURED[indices])


def test_images_of_different_sizes_stay_in_ram_and_the_table_says_so() -> None:
    host = lowered(v1.Compose([v1.RandomResizedCrop(24), *END]))
    there = on_device(host, CPU)
    memory = MemoryImages(COLOURED.nbytes)
    for place, image in enumerate(COLOURED):
        memory.append(image[: 30 + place])
    there.build = lambda: (store_of(memory.done()), host.build()[1])
    images, _ = there.batch(INDEX, sample_keys(0, 0, INDEX))
    assert images.shape == (BATCH, 3, 24, 24)
    assert there.threads
    assert not there.asynchronous
    assert ("images of different sizes", "RAM") in [(row.what, row.where) for row in there.rows]


def test_why_images_are_not_kept_on_a_device_is_said() -> None:
    unequal = {(30, 40, 3), (40, 30, 3)}
    assert why_not_on_device(CPU, unequal, 1, None, True) is not None
    with pytest.raises(NotApplicable, match="it is for CUDA devices, whose memory is their own"):
        compile_dataset(Pictures(COLOURED, CHAINS["CIFAR"]), Settings(placement="device"))
    with pytest.raises(NotApplicable, match="compiled altogether"):
        compile_dataset(Pictures(COLOURED, lambda image: v1.ToTensor()(image)), Settings(placement="device"))


def test_a_plan_for_a_device_is_proved_there_and_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this processor had memory of its own."""
    monkeypatch.setattr(compile_module, "why_not_on_device", lambda *_: None)
    dataset = Pictures(COLOURED, CHAINS["erased"])
    there = torchspeed.DataLoader(dataset, 8, shuffle=True, seed=1)
    host = torchspeed.DataLoader(dataset, 8, shuffle=True, seed=1, placement="ram")
    assert "the memory of cpu" in repr(there)
    assert "PyTorch code on cpu" in repr(there)
    for mine, other in zip(there, host, strict=True):
        assert all(map(torch.equal, mine, other))
    assert "the memory of cpu" not in repr(host)
    both = torch.utils.data.ConcatDataset([dataset, dataset])
    with pytest.raises(NotApplicable, match="several datasets"):
        compile_dataset(both, Settings(placement="device"))
    part, _ = compile_dataset(both, Settings()).batch(np.array([3, 25]), sample_keys(0, 0, np.array([3, 25])))
    assert part.shape == (2, 3, 24, 24)


def test_a_device_that_gives_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "why_not_on_device", lambda *_: None)
    monkeypatch.setattr(device_geometry, "erase", lambda values, *_: values)
    dataset = Pictures(COLOURED, CHAINS["erased"])
    with pytest.raises(NotApplicable, match=r"placement=device: .* differs from what your code gives"):
        compile_dataset(dataset, Settings(placement="device"))
    instead = compile_dataset(dataset, Settings())
    assert isinstance(instead, Lowered)
    assert not instead.on_device


def compiling(host: Lowered, told: list[str]) -> DeviceRenderer:
    return DeviceRenderer(host.renderer.program, False, CPU, compiles=True, report=told.append)


def test_a_tape_that_comes_again_is_compiled_as_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the part of torch.compile that reads Python; its code generator takes most of a minute."""
    backends: list[str] = []

    def read(function: Any, options: Any, **settings: Any) -> Any:
        backends.append("eager")
        return original(function, backend="eager", **settings)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", read)
    told: list[str] = []
    host = lowered(CHAINS["v2"])
    renderer, levels = compiling(host, told), torch.from_numpy(COLOURED)
    for epoch in range(3):
        keys = sample_keys(0, epoch, INDEX)
        assert torch.equal(renderer.images(levels, INDEX, keys), host.renderer.images(COLOURED, INDEX, keys))
    assert len(backends) == 1, "other parameters, the same tape"
    assert told == []


@pytest.mark.parametrize("off", [0.0, 0.1], ids=["raises", "differs"])
def test_what_cannot_be_compiled_is_played_and_said_once(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    def broken(function: Any, **_: Any) -> Callable[..., Tensor]:
        def run(*arguments: Any) -> Tensor:
            if off == 0.0:
                raise RuntimeError("no compiler\nand a long trace")
            return torch.as_tensor(function(*arguments) + off)

        return run

    monkeypatch.setattr(torch, "compile", broken)
    told: list[str] = []
    host = lowered(CHAINS["CIFAR"])
    renderer, levels = compiling(host, told), torch.from_numpy(COLOURED)
    for epoch in range(4):
        keys = sample_keys(0, epoch, INDEX)
        assert torch.equal(renderer.images(levels, INDEX, keys), host.renderer.images(COLOURED, INDEX, keys))
    assert told == ["RuntimeError: no compiler"] if off == 0.0 else "differs by 0.1" in told[0]
    assert len(told) == 1


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("levels", [COLOURED, GREY], ids=["coloured", "grey"])
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_an_instruction_gives_the_levels_of_the_host_on_a_gpu(name: str, levels: NDArray[np.uint8]) -> None:
    assert differs_by(INSTRUCTIONS[name], levels, CUDA) <= (0 if name.startswith("pad") else 1)


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("name", CHAINS)
def test_the_batches_of_a_gpu_are_those_of_the_host(name: str) -> None:
    """Before and after the tape is compiled."""
    dataset = Pictures(COLOURED, CHAINS[name])
    ours, theirs = (
        torchspeed.DataLoader(dataset, 8, shuffle=True, seed=1, device=device) for device in ("cuda", "cpu")
    )
    assert "the memory of cuda" in repr(ours)
    level = 1.01 / 255 / min(STD) if name != "bytes" else 1
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            assert mine[0].device.type == mine[1].device.type == "cuda"
            assert torch.equal(mine[1].cpu(), other[1])
            if name in ("CIFAR", "bytes", "padded after Normalize"):
                assert torch.equal(mine[0].cpu(), other[0])
            else:
                assert (mine[0].cpu() - other[0]).abs().max() <= level
    assert "torch.compile" not in repr(ours), "it was compiled, and no sentence says why not"


@pytest.mark.gpu
@gpu
def test_batches_are_made_without_waiting_for_the_gpu() -> None:
    transform = v1.Compose([v1.RandomCrop(32, padding=4), *CHAINS["jitter"].transforms, v1.RandomErasing()])
    dataset = compile_dataset(Pictures(pictures(40), transform), Settings(device=CUDA))
    batches = OrderedLoader(dataset, 8, drop_last=True).epoch(0)
    for _ in range(3):
        next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) == 2
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@gpu
def test_what_does_not_fit_on_the_gpu_is_kept_in_ram() -> None:
    dataset = Pictures(COLOURED, CHAINS["CIFAR"])
    small = compile_dataset(dataset, Settings(device=CUDA, budget_bytes=1000))
    assert isinstance(small, Lowered)
    assert not small.on_device
    with pytest.raises(NotApplicable, match=r"more than the 0\.0 GB granted on cuda"):
        compile_dataset(dataset, Settings(device=CUDA, placement="device", budget_bytes=1000))
