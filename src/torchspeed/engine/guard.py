"""Before the first step: does it all fit? And after a failure: what exactly did not, where, and what would.

``preflight`` sends one batch through model, loss and metric and leaves no trace, so that what is wrong is said before
anything is written. ``explain`` turns an exception from inside PyTorch into the sentence that a colleague would say.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchspeed.data.batched import TensorBatches
from torchspeed.data.fetch import generators_kept
from torchspeed.data.loader import OrderedLoader
from torchspeed.engine import locate
from torchspeed.engine.evaluate import device_generator_kept, sums
from torchspeed.engine.step import to_device
from torchspeed.errors import DataError, JobError, TorchspeedError
from torchspeed.job import Job
from torchspeed.run import Run

Place = tuple[int, int]


def preflight(run: Run, job: Job) -> None:
    """Raise JobError or DataError if the first batch does not go through; the run is as it was afterwards."""
    with device_generator_kept(run.device), generators_kept(), _buffers_kept(run.model), torch.no_grad():
        batch = run.loader.batch(0, 0)
        try:
            moved = to_device(batch, run.device)
            with run.step_context():
                if job.loss is None:
                    loss = run.compute_loss(run.model, moved)
                else:
                    inputs, target = moved
                    output = run.model(inputs)
                    _check_all_labels(run, job, output, target)
                    loss = job.loss(output, target)
            _check_loss(loss, moved, "step 1")
        except Exception as error:
            raise explain(run, job, batch, error, (0, 0)) from error
        if run.valid is None:
            return
        run.model.eval()
        try:
            batch = run.valid.batch(0, 0)
            sums(run, job, run.model, to_device(batch, run.device))
        except Exception as error:
            raise explain(run, job, batch, error, None) from error
        finally:
            run.model.train()


def check_first_loss(loss: Tensor) -> None:
    """The first loss of the training itself."""
    _check_loss(loss, None, "step 1")


def explain(run: Run, job: Job, batch: Any, error: Exception, place: Place | None) -> Exception:
    """``error``, raised by a step on ``batch``, as an error of ours that says what was found, where, what to do.

    ``place``: (epoch, batch number) in the training data; None for validation data.
    """
    if isinstance(error, TorchspeedError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return JobError(
            f"out of memory on {run.device} with batch_size {job.batch_size}: {_first_line(error)}; "
            "lower batch_size, or keep it with --set gradient_accumulation=2"
        )
    if "device-side assert" in str(error):
        return DataError(
            "the GPU stopped on an assertion, mostly a label out of range; run once with --device cpu to see which one"
        )
    if job.loss is not None and not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        return JobError(
            f"a batch is {_describe(batch)}, but loss=(output, target) needs (input, target); "
            "give step=(model, batch) -> loss for any other batch"
        )
    finding = _replay(run, job, batch, place)
    return finding or JobError(f"{locate.raised_at(error)}{type(error).__name__}: {_first_line(error)}")


def _replay(run: Run, job: Job, batch: Any, place: Place | None) -> TorchspeedError | None:
    """Go through the step once more, part by part, to see which part fails."""
    if job.loss is None:
        trace = locate.Trace(run.model)
        try:
            with torch.no_grad(), trace, run.step_context():
                loss = run.compute_loss(run.model, to_device(batch, run.device))
            _check_loss(loss, batch, "this step")
        except TorchspeedError as error:
            return error
        except Exception as error:
            return trace.explain(error, job.model, batch)
        return None
    inputs, target = to_device(batch, run.device)
    trace = locate.Trace(run.model)
    try:
        with torch.no_grad(), trace, run.step_context():
            output = run.model(inputs)
    except Exception as error:
        return trace.explain(error, job.model, inputs)
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        return None
    if output.ndim and target.ndim and len(output) != len(target):
        return JobError(
            f"{locate.reshape_line(run.model)}the model gives {len(output)} outputs for {len(target)} samples: a "
            f"view or reshape folds features into the batch (input {_sizes(inputs)}); keep the batch with x.flatten(1)"
        )
    try:
        with torch.no_grad(), run.step_context():
            _check_loss(job.loss(output, target), batch, "this step")
    except TorchspeedError as error:
        return error
    except Exception as error:
        classes = _classes(output, target)
        if classes is not None and (bad := _out_of_range(target, classes, job)) is not None:
            where = "valid" if place is None else f"sample {_sample_of(run, place, bad, target)} of train"
            return _label_error(int(target.reshape(-1)[bad]), classes, f" ({where})")
        return JobError(
            f"{locate.raised_at(error)}loss() raised {type(error).__name__} for output {_sizes(output)} and target "
            f"{_sizes(target)} {str(target.dtype).removeprefix('torch.')}: {_first_line(error)}"
        )
    return None


def _check_loss(loss: Any, batch: Any, when: str) -> None:
    if not isinstance(loss, Tensor):
        raise JobError(f"the loss is a {type(loss).__name__}, not a tensor; return the tensor itself, not .item()")
    if loss.ndim and loss.numel() != 1:
        raise JobError(
            f"the loss has shape {_sizes(loss)} where a scalar is needed; use reduction='mean' or return loss.mean()"
        )
    if loss.ndim:
        raise JobError(f"the loss has shape {_sizes(loss)}, not a scalar; return loss.squeeze()")
    value = float(loss)
    if math.isfinite(value):
        return
    for name, part in _floats(batch):
        bad = part.numel() - int(torch.isfinite(part).sum())
        if bad:
            raise DataError(f"the loss is {value} at {when}: {name} of the batch has {bad} values that are not finite")
    raise JobError(
        f"the loss is {value} at {when} although the batch is finite: look for a division by zero or log(0) in model "
        "and loss, or inputs that are not normalised"
    )


def _check_all_labels(run: Run, job: Job, output: Any, target: Any) -> None:
    """For data in memory, every label at once, so that a bad one is found before step 1 and not after an hour."""
    if not isinstance(target, Tensor) or not isinstance(job.loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return  # another loss may read its targets another way
    classes = _classes(output, target)
    for what, loader in (("train", run.loader), ("valid", run.valid)):
        if classes is None or not isinstance(loader, OrderedLoader):
            continue
        data = loader.dataset
        if isinstance(data, TensorBatches) and (bad := _out_of_range(data.tensors[-1], classes, job)) is not None:
            labels = data.tensors[-1]
            sample = bad // max(1, labels[0].numel())
            raise _label_error(int(labels.reshape(-1)[bad]), classes, f" (sample {sample} of {what})")


def _classes(output: Any, target: Tensor) -> int | None:
    """The number of classes where target holds class indices: [N, C] or [N, C, ...] against [N, ...]."""
    if not isinstance(output, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        return None
    if output.ndim == target.ndim + 1 and output.shape[:-1] == target.shape:
        return output.shape[-1]
    if output.ndim == target.ndim + 1 and output.ndim > 2:
        return output.shape[1]
    return None


def _out_of_range(target: Tensor, classes: int, job: Job) -> int | None:
    ignored = getattr(job.loss, "ignore_index", -100)
    wrong = ((target < 0) | (target >= classes)) & (target != ignored)
    return int(wrong.reshape(-1).int().argmax()) if bool(wrong.any()) else None


def _label_error(value: int, classes: int, where: str) -> DataError:
    return DataError(
        f"label {value} is out of range{where}: the model gives {classes} classes, so labels run from 0 to "
        f"{classes - 1}; renumber the labels or give the model more outputs"
    )


def _sample_of(run: Run, place: Place, flat: int, target: Tensor) -> int:
    return run.loader.sample_ids(*place)[flat // max(1, target[0].numel())]


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Also where forward puts another tensor into a buffer's name."""
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            module._buffers[name] = buffer
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _floats(batch: Any, name: str = "the input") -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        if batch.is_floating_point():
            yield name, batch
    elif isinstance(batch, dict):
        for key, part in batch.items():
            yield from _floats(part, repr(key))
    elif isinstance(batch, (tuple, list)):
        for number, part in enumerate(batch):
            yield from _floats(part, ("the input", "the target")[number] if len(batch) == 2 else f"part {number}")


def _describe(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"one tensor {_sizes(batch)}"
    if isinstance(batch, dict):
        return f"a dictionary with {', '.join(map(repr, batch))}"
    return f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"


def _sizes(value: Any) -> str:
    return locate.sizes(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
