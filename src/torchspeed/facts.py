"""``Facts``: what is known of a training, and all that a lever may ask before it is applied.

Facts are read from a live run as written, so that a job and somebody else's script give the same ones.
"""

import inspect
from dataclasses import dataclass

from torch import nn

from torchspeed.run import Run


@dataclass(frozen=True)
class Facts:
    """``Facts()`` means that nothing is known yet, which is so before the job is loaded."""

    layers: frozenset[str] = frozenset()
    optimizer: str = ""
    optimizer_options: frozenset[str] = frozenset()
    parameters: int = 0
    batch_size: int = 0
    batches_per_epoch: int = 0
    loss_reduction: str = ""
    loss_has_class_weights: bool = False
    has_batch_norm: bool = False
    has_sparse_gradients: bool = False


def observe(run: Run, batch_size: int, loss: object = None) -> Facts:
    """Facts of a run as written. ``loss``: the loss callable, asked for its ``reduction``."""
    modules = list(run.model.modules())
    return Facts(
        layers=frozenset(type(module).__name__ for module in modules),
        optimizer=type(run.optimizer).__name__,
        optimizer_options=frozenset(inspect.signature(type(run.optimizer)).parameters),
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        batch_size=batch_size,
        batches_per_epoch=len(run.loader),
        loss_reduction=getattr(loss, "reduction", ""),
        loss_has_class_weights=getattr(loss, "weight", None) is not None,
        has_batch_norm=any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules),
        has_sparse_gradients=any(getattr(module, "sparse", False) for module in modules),
    )
