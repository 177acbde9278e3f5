"""Advice: what a colleague who reads job, model and pipeline would point out before anything is tuned.

``ADVICE`` is the registry, one line per file. A lever changes how a training is computed; an advice is about what the
user alone can decide, since it changes the model, the data or the code. Each is shown with its line and its size.
"""

from collections.abc import Callable, Iterator

from torchspeed.measure.advice.activation_before_pooling import activation_before_pooling
from torchspeed.measure.advice.batch_tail import batch_tail
from torchspeed.measure.advice.bias_before_norm import bias_before_norm
from torchspeed.measure.advice.data_parallel import data_parallel
from torchspeed.measure.advice.debugging_left_on import debugging_left_on
from torchspeed.measure.advice.heavy_dropout import heavy_dropout
from torchspeed.measure.advice.host_sync import host_sync
from torchspeed.measure.advice.learning_rate_zero import learning_rate_zero
from torchspeed.measure.advice.left_in_eval import left_in_eval
from torchspeed.measure.advice.no_gradient import no_gradient
from torchspeed.measure.advice.schedule_pace import schedule_pace
from torchspeed.measure.advice.softmax_before_loss import softmax_before_loss
from torchspeed.measure.advice.subject import Advice, Subject
from torchspeed.measure.advice.tensor_core_sizes import tensor_core_sizes
from torchspeed.measure.advice.upsampling_resize import upsampling_resize
from torchspeed.measure.advice.validation_in_training import validation_in_training
from torchspeed.measure.advice.wide_linear import wide_linear
from torchspeed.measure.advice.zero_workers import zero_workers

ADVICE: tuple[Callable[[Subject], Iterator[Advice]], ...] = (
    validation_in_training,
    softmax_before_loss,
    no_gradient,
    learning_rate_zero,
    schedule_pace,
    left_in_eval,
    heavy_dropout,
    upsampling_resize,
    zero_workers,
    data_parallel,
    debugging_left_on,
    host_sync,
    wide_linear,
    bias_before_norm,
    activation_before_pooling,
    batch_tail,
    tensor_core_sizes,
)


def advise(subject: Subject) -> tuple[tuple[Advice, ...], tuple[str, ...]]:
    """(advice, notes): first what makes a result wrong, then what makes it late.

    A note says which advice could not be had and why: code that nobody foresaw must not end an explanation.
    """
    found: list[Advice] = []
    failed: dict[str, list[str]] = {}
    for advice in ADVICE:
        try:
            found += advice(subject)
        except Exception as error:
            failed.setdefault(f"{type(error).__name__}: {error}", []).append(advice.__name__)
    notes = (f"no advice on {', '.join(names)}: {why}" for why, names in failed.items())
    return tuple(found), tuple(notes)


__all__ = ["ADVICE", "Advice", "Subject", "advise"]
