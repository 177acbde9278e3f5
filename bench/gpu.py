"""Images per second of one training under each plan, on a GPU if there is one: as written, and lever by lever.

    PYTHONPATH=src python3 bench/gpu.py [--device cuda] [--batch-size 256] [--blocks 7]

ResNet-18 on random 3×64×64 images, which lie in memory, so that no data is waited for. Plans take turns in blocks
(A B C A B C …); a block is timed from one wait for the device to the next, and ratios to as written are paired. Warm-up
blocks, compilation in them, come first and are said, not counted. A step as one CUDA graph stands beside
``reduce-overhead``, which makes graphs of the parts that it compiles. Levers that do not apply here are said with
their sentence.
"""

import argparse
import time

import torch
from torch import Tensor, nn

import torchspeed
from common import console, provenance, show, write
from torchspeed import models
from torchspeed.engine.build import build
from torchspeed.engine.step import make_step
from torchspeed.measurement import Spread, ratio
from torchspeed.plan import Option

FAST: dict[str, Option] = {
    "precision": "bf16",
    "memory_format": "channels_last",
    "optimizer_impl": "fused",
}
PLANS = {
    "as written": torchspeed.Plan(),
    "channels_last": torchspeed.Plan.of(memory_format="channels_last"),
    "tf32": torchspeed.Plan.of(precision="tf32"),
    "bf16": torchspeed.Plan.of(precision="bf16"),
    "fp16": torchspeed.Plan.of(precision="fp16"),
    "bf16 + channels_last": torchspeed.Plan.of(precision="bf16", memory_format="channels_last"),
    "bf16 + channels_last + fused": torchspeed.Plan.of(**FAST),
    "the same, compile=default": torchspeed.Plan.of(**FAST, compile="default"),
    "the same, compile=reduce-overhead": torchspeed.Plan.of(**FAST, compile="reduce-overhead"),
    "the same, compile=step": torchspeed.Plan.of(**FAST, compile="step"),
    "the same, whole-step CUDA graph": torchspeed.Plan.of(**FAST, cuda_graphs="step"),
}


def job(batch_size: int) -> torchspeed.Job:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 64, 64, generator=generator)
    return torchspeed.Job(
        name="gpu",
        model=lambda: models.ResNet(3, 1000, depth=18, width=64, stem="imagenet"),
        train=(images, torch.randint(0, 1000, (batch_size,), generator=generator)),
        loss=nn.CrossEntropyLoss(),
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-3),
        batch_size=batch_size,
    )


class Contender:
    """One plan's live run; ``block`` gives images per second over some steps."""

    def __init__(self, plan: torchspeed.Plan, machine: torchspeed.Machine, batch_size: int) -> None:
        tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        self.run = build(job(batch_size), plan, machine)
        self.tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision(tf32[0])
        torch.backends.cudnn.allow_tf32 = tf32[1]
        self.step = make_step(self.run)
        self.batch: tuple[Tensor, Tensor] = self.run.loader.batch(0, 0)

    def block(self, steps: int) -> float:
        torch.set_float32_matmul_precision(self.tf32[0])
        torch.backends.cudnn.allow_tf32 = self.tf32[1]
        self.wait()
        began = time.perf_counter()
        for _ in range(steps):
            self.step(self.batch)
        self.wait()
        return steps * len(self.batch[0]) / (time.perf_counter() - began)

    def wait(self) -> None:
        if self.run.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30, help="in a block")
    parser.add_argument("--blocks", type=int, default=7)
    arguments = parser.parse_args()
    about = provenance(arguments.device)
    machine = torchspeed.Machine.detect(arguments.device)
    contenders, warmup = {}, {}
    for name, plan in PLANS.items():
        contender = Contender(plan, machine, arguments.batch_size)
        if contender.run.skipped:
            console.print(f"{name}: {'; '.join(contender.run.skipped)}")
            continue
        began = time.perf_counter()
        contender.block(max(3, arguments.steps // 3))
        contenders[name], warmup[name] = contender, time.perf_counter() - began
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.blocks):
        for name, contender in contenders.items():
            rates[name].append(contender.block(arguments.steps))
    reference = rates["as written"]
    show(
        f"ResNet-18, 64×64, batch {arguments.batch_size}",
        ["plan", "images/s", "÷ as written", "warm-up s"],
        [[name, Spread.of(r), ratio(r, reference), f"{warmup[name]:.2f}"] for name, r in rates.items()],
    )
    figures = {
        name: {"images_per_second": Spread.of(r), "ratio": ratio(r, reference), "warmup_seconds": warmup[name]}
        for name, r in rates.items()
    }
    write(f"levers_{machine.device}", about, {"batch_size": arguments.batch_size, "plans": figures})


if __name__ == "__main__":
    main()
