"""One training loop, in a process of its own, for ``loop_overhead.py``; every loop trains the same thing.

A 64-128-10 perceptron on 8×8 inputs, batches of 64 out of 16 384 samples (256 steps an epoch, all of them full), Adam,
cross-entropy, CPU, one thread. It is as small as a step gets that still is one, so what remains besides the arithmetic
is what the loop costs.

Each loop is written as the documentation of its package writes it. The clock runs from the first mark after a tenth of
the steps to the last mark; importing, building, first calls and the last checkpoint are outside of it.

Talks over two pipes: a line with a number of steps in, a line of JSON out. Its own output goes to a terminal, because a
progress display that sees none is not the one that people have.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCH_SIZE = 64
STEPS_PER_EPOCH = 256
SAMPLES = BATCH_SIZE * STEPS_PER_EPOCH
WARMUP_STEPS = 2 * STEPS_PER_EPOCH


@dataclass(frozen=True)
class Mark:
    """Where the clocks stood when ``step`` steps were done; seconds, the second of all threads of this process."""

    step: int
    clock: float
    processor: float


class Stopwatch:
    """Time per step between the first mark after ``skip`` steps and the last mark."""

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.marks: list[Mark] = []

    def mark(self, step: int) -> None:
        if step >= self.skip:
            self.marks.append(Mark(step, time.perf_counter(), time.process_time()))

    def per_step(self) -> dict[str, float]:
        if len(self.marks) < 2:
            raise RuntimeError("too few steps to time: two marks are needed after the warm-up")
        first, last = self.marks[0], self.marks[-1]
        steps = last.step - first.step
        return {
            "seconds_per_step": (last.clock - first.clock) / steps,
            "processor_seconds_per_step": (last.processor - first.processor) / steps,
        }


Notes = dict[str, Any]
Loop = Callable[[int, Stopwatch, str], Notes]


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def samples() -> tuple[Tensor, Tensor]:
    """Inputs float32 [N, 8, 8] and labels int64 [N]. Random, for the loop does not care what it learns."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, 8, 8, generator=generator)
    return inputs, torch.randint(10, (SAMPLES,), generator=generator)


def bare(steps: int, watch: Stopwatch, folder: str) -> Notes:
    """What one writes who wants nothing but the steps."""
    inputs, labels = samples()
    model, loss_of = perceptron(), nn.CrossEntropyLoss()
    optimizer = adam(model.parameters())
    for epoch in range(steps // STEPS_PER_EPOCH):
        for chosen in torch.split(torch.randperm(SAMPLES), BATCH_SIZE):
            optimizer.zero_grad()
            loss = loss_of(model(inputs[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
        watch.mark((epoch + 1) * STEPS_PER_EPOCH)
    return {}


def dataloader(steps: int, watch: Stopwatch, folder: str) -> Notes:
    """What the tutorials write."""
    loader = DataLoader(TensorDataset(*samples()), batch_size=BATCH_SIZE, shuffle=True)
    model, loss_of = perceptron(), nn.CrossEntropyLoss()
    optimizer = adam(model.parameters())
    for epoch in range(steps // STEPS_PER_EPOCH):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(model(inputs), labels)
            loss.backward()
            optimizer.step()
        watch.mark((epoch + 1) * STEPS_PER_EPOCH)
    return {}


def torchspeed(steps: int, watch: Stopwatch, folder: str) -> Notes:
    """``torchspeed.train`` with all that it does by default."""
    import torchspeed
    from torchspeed.engine.events import Event, Saved, StepLogged, TensorBoard

    stalls: list[float] = []

    class Watch:
        def handle(self, event: Event) -> None:
            if isinstance(event, StepLogged):
                watch.mark(event.step)
            elif isinstance(event, Saved):
                stalls.append(event.stalled)

        def close(self) -> None:
            pass

    job = torchspeed.Job(
        model=perceptron,
        train=TensorDataset(*samples()),
        loss=nn.CrossEntropyLoss(),
        optimizer=adam,
        batch_size=BATCH_SIZE,
        epochs=steps // STEPS_PER_EPOCH,
    )
    torchspeed.train(job, run_dir=f"{folder}/run", device="cpu", sinks=[Watch()])
    return {"checkpoint_seconds": max(stalls), "tensorboard": TensorBoard.installed()}


def accelerate(steps: int, watch: Stopwatch, folder: str) -> Notes:
    from accelerate import Accelerator  # type: ignore[import-not-found, unused-ignore]

    accelerator = Accelerator(cpu=True)
    loss_of, model = nn.CrossEntropyLoss(), perceptron()
    loader = DataLoader(TensorDataset(*samples()), batch_size=BATCH_SIZE, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, adam(model.parameters()), loader)
    for epoch in range(steps // STEPS_PER_EPOCH):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
        watch.mark((epoch + 1) * STEPS_PER_EPOCH)
    return {}


def lightning(steps: int, watch: Stopwatch, folder: str) -> Notes:
    """With progress bar, logger and checkpoints, as a ``Trainer`` has them by default."""
    return _lightning(steps, watch, folder, log=True)


def lightning_off(steps: int, watch: Stopwatch, folder: str) -> Notes:
    """With neither progress bar nor logger nor checkpoints."""
    off = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    return _lightning(steps, watch, folder, log=False, **off)


def _lightning(steps: int, watch: Stopwatch, folder: str, log: bool, **options: Any) -> Notes:
    import lightning as pl  # type: ignore[import-not-found, unused-ignore]

    class Perceptron(pl.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = perceptron()
            self.loss = nn.CrossEntropyLoss()

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            inputs, labels = batch
            loss: Tensor = self.loss(self.model(inputs), labels)
            if log:
                self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adam(self.parameters())

    class Watch(pl.Callback):  # type: ignore[misc, unused-ignore]
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            watch.mark(trainer.global_step)

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=steps // STEPS_PER_EPOCH,
        default_root_dir=folder,
        callbacks=[Watch()],
        **options,
    )
    trainer.fit(Perceptron(), DataLoader(TensorDataset(*samples()), batch_size=BATCH_SIZE, shuffle=True))
    return {}


LOOPS: dict[str, Loop] = {
    loop.__name__: loop for loop in (bare, dataloader, torchspeed, accelerate, lightning, lightning_off)
}


def serve(loop: Loop, replies: int) -> None:
    """Run blocks of steps as they are asked for on standard input; answer on the file descriptor ``replies``."""
    torch.set_num_threads(1)
    with open(replies, "w", buffering=1, encoding="utf-8") as out, tempfile.TemporaryDirectory() as folder:
        for block in itertools.count():
            steps = int(sys.stdin.readline() or 0) if block else WARMUP_STEPS
            if not steps:
                return
            torch.manual_seed(0)
            watch = Stopwatch(steps // 10)
            notes = loop(steps, watch, f"{folder}/{block}")
            if torch.get_num_threads() != 1:
                raise RuntimeError(f"{loop.__name__} set {torch.get_num_threads()} threads; all must have one")
            answer = {**watch.per_step(), "torch": torch.__version__, **notes}
            out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve(LOOPS[sys.argv[1]], int(sys.argv[2]))
