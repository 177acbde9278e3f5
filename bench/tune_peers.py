"""The loops that people write by hand, for ``tune.py``: plain PyTorch, Lightning, Accelerate, each with its flags.

Each is written as the documentation of its package writes it, calls ``done`` with the loss
after every step, and never ends.
"""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tune_work import Work, adam, as_peers_read, as_people_read

Done = Callable[[Tensor], None]


@dataclass(frozen=True)
class Flags:
    """What somebody who tunes by hand turns on. ``compile``: a mode of ``torch.compile``, or ""."""

    bf16: bool = False
    channels_last: bool = False
    compile: str = ""
    fused: bool = False
    workers: int = 0
    torchvision: bool = False

    def loader(self, work: Work, folder: Path) -> DataLoader[Any]:
        data = (as_people_read if self.torchvision else as_peers_read)(work, folder)
        return DataLoader(
            data,
            work.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def model(self, work: Work) -> nn.Module:
        model = work.model()
        return model.to(memory_format=torch.channels_last) if self.channels_last else model  # type: ignore[call-overload]

    def pictures(self, pictures: Tensor) -> Tensor:
        return pictures.to(memory_format=torch.channels_last) if self.channels_last else pictures

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return adam(model.parameters(), fused=self.fused or None)


def plain(work: Work, folder: Path, flags: Flags, done: Done) -> None:
    """The loop of the tutorials; compiled and under autocast if the flags say so."""
    loader, model, loss_of = flags.loader(work, folder), flags.model(work), nn.CrossEntropyLoss()
    optimizer = flags.optimizer(model)
    forward = cast(nn.Module, torch.compile(model, mode=flags.compile)) if flags.compile else model
    for _ in itertools.count():
        for pictures, labels in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16) if flags.bf16 else nullcontext():
                loss = loss_of(forward(flags.pictures(pictures)), labels)
            loss.backward()
            optimizer.step()
            done(loss)


def accelerate(work: Work, folder: Path, flags: Flags, done: Done) -> None:
    from accelerate import Accelerator  # type: ignore[import-not-found, unused-ignore]
    from accelerate.utils import TorchDynamoPlugin  # type: ignore[import-not-found, unused-ignore]

    compiled = {"dynamo_plugin": TorchDynamoPlugin(backend="inductor", mode=flags.compile)} if flags.compile else {}
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if flags.bf16 else "no", **compiled)
    model, loss_of = flags.model(work), nn.CrossEntropyLoss()
    model, optimizer, loader = accelerator.prepare(model, flags.optimizer(model), flags.loader(work, folder))
    for _ in itertools.count():
        for pictures, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(model(flags.pictures(pictures)), labels)
            accelerator.backward(loss)
            optimizer.step()
            done(loss)


def lightning(work: Work, folder: Path, flags: Flags, done: Done) -> None:
    """Without progress bar, logger and checkpoints."""
    import lightning as pl  # type: ignore[import-not-found, unused-ignore]

    class Classifier(pl.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            model = flags.model(work)
            self.model = torch.compile(model, mode=flags.compile) if flags.compile else model
            self.loss = nn.CrossEntropyLoss()

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            pictures, labels = batch
            loss: Tensor = self.loss(self.model(flags.pictures(pictures)), labels)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return flags.optimizer(self)

    class Steps(pl.Callback):  # type: ignore[misc, unused-ignore]
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
            done(outputs["loss"])

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed" if flags.bf16 else "32-true",
        max_epochs=-1,
        callbacks=[Steps()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(), flags.loader(work, folder))
