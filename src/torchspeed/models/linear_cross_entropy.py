"""Cross entropy with its gradient computed in the forward pass, a few rows at a time.

As written, the logits [N, C] of a language model go through memory again and again: the linear layer writes them,
log-softmax reads them and writes as many, backward reads those and writes a gradient of the same size, which two matrix
products read. But row i of that gradient, ``softmax(logits_i) - target_i``, needs row i alone, and it is known as soon
as the row is. So a block of rows is computed, turned into its gradient where it lies, multiplied into the gradients of
hidden state and weight, and forgotten. What is kept is [N, D] and [C, D]; no array of N * C numbers ever exists.

Source: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009; Hsu et al., "Liger
Kernel", arXiv:2410.10989, section 3.2 (fused linear cross entropy).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Bytes of a block of logits: on a CPU it should stay in cache, on a GPU it should fill the machine.
_BLOCK_BYTES = {"cpu": 16 << 20}
_GPU_BLOCK_BYTES = 256 << 20
_FEWEST_ROWS = 128


class Terms(NamedTuple):
    """What ``torch.nn.CrossEntropyLoss`` takes; ``reduction`` is "mean" or "sum"."""

    ignore_index: int = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"


MEAN = Terms()


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, terms: Terms = MEAN, rows: int = 0
) -> Tensor:
    """``F.cross_entropy(F.linear(hidden, weight, bias), target)``, a float scalar, differentiable once.

    hidden: [N, D]; weight: [C, D]; bias: [C] or None; target: int64 [N]. Products are taken in the dtype of autocast,
    where it is on, and softmax and sums in float32. rows: at a time; 0 chooses. Raises RuntimeError for a target that
    is no class.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, target, terms, rows)  # type: ignore[no-untyped-call]
    return loss


def cross_entropy(logits: Tensor, target: Tensor, terms: Terms = MEAN) -> Tensor:
    """``F.cross_entropy(logits, target)``, a float scalar, differentiable once. logits: [N, C]; target: int64 [N]."""
    loss: Tensor = _CrossEntropy.apply(logits, target, terms)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, terms: Terms, rows: int
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            x, w = hidden.to(dtype), weight.to(dtype)
            b = None if bias is None else bias.to(dtype)
            for_hidden, for_weight, for_bias, *_ = ctx.needs_input_grad
            grad_hidden = torch.empty_like(x) if for_hidden else None
            grad_weight = torch.zeros_like(weight) if for_weight else None
            grad_bias = torch.zeros_like(bias) if bias is not None and for_bias else None
            loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
            rows = rows or _rows(device, len(weight))
            for start in range(0, len(x), rows):
                piece = slice(start, start + rows)
                logits = torch.mm(x[piece], w.T) if b is None else torch.addmm(b, x[piece], w.T)
                gradient, piece_loss = _gradient(logits, target[piece], terms)
                loss += piece_loss
                gradient = gradient.to(dtype)
                if grad_hidden is not None:
                    torch.mm(gradient, w, out=grad_hidden[piece])
                if grad_weight is not None:
                    if grad_weight.dtype == dtype:
                        grad_weight.addmm_(gradient.T, x[piece])
                    else:
                        grad_weight += torch.mm(gradient.T, x[piece])
                if grad_bias is not None:
                    grad_bias += gradient.sum(0, dtype=grad_bias.dtype)
            count = _count(target, terms)
            ctx.gradients = grad_hidden, grad_weight, grad_bias
            ctx.dtype = hidden.dtype
            ctx.save_for_backward(count)
            return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        (hidden, weight, bias), factor = _once(ctx, grad_loss)
        hidden = None if hidden is None else hidden.to(ctx.dtype)
        for gradient in (hidden, weight, bias):
            if gradient is not None:
                gradient *= factor.to(gradient.dtype)
        return hidden, weight, bias, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, terms: Terms) -> Tensor:
        gradient = torch.empty_like(logits, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32, device=logits.device)
        rows = _rows(logits.device.type, logits.shape[1])
        for start in range(0, len(logits), rows):
            piece = slice(start, start + rows)
            _, piece_loss = _gradient(logits[piece], target[piece], terms, gradient[piece])
            loss += piece_loss
        count = _count(target, terms)
        ctx.gradients = (gradient,)
        ctx.dtype = logits.dtype
        ctx.save_for_backward(count)
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), factor = _once(ctx, grad_loss)
        return gradient.mul_(factor).to(ctx.dtype), None, None


def _gradient(logits: Tensor, target: Tensor, terms: Terms, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(d loss / d logits [n, C], loss), both summed over rows and not divided by their number, in float32."""
    if out is None:
        log_p = torch.log_softmax(logits, 1, dtype=torch.float32)
    else:
        log_p = torch.log_softmax(logits, 1, dtype=torch.float32, out=out)
    kept = target != terms.ignore_index
    index = torch.where(kept, target, 0).unsqueeze(1)
    smoothing, classes = terms.label_smoothing, logits.shape[1]
    losses = log_p.gather(1, index).squeeze(1) * (smoothing - 1)
    if smoothing:
        losses -= log_p.sum(1) * (smoothing / classes)
    gradient = log_p.exp_()
    if smoothing:
        gradient -= smoothing / classes
    gradient.scatter_add_(1, index, torch.full_like(index, smoothing - 1, dtype=gradient.dtype))
    if logits.device.type != "cpu" or not kept.all():  # asking a GPU would make it wait
        gradient *= kept.unsqueeze(1)
    return gradient, torch.where(kept, losses, 0.0).sum()


def _count(target: Tensor, terms: Terms) -> Tensor:
    """What the sum over rows is divided by; 0 for a mean over none, which is NaN as in PyTorch."""
    if terms.reduction == "sum":
        return torch.ones((), device=target.device)
    return (target != terms.ignore_index).sum().float()


def _once(ctx: Any, grad_loss: Tensor) -> tuple[Any, Tensor]:
    """The gradients, which are given away, and what they are to be multiplied with."""
    if ctx.gradients is None:
        raise RuntimeError(
            "backward was called twice through fused_loss, which gives its gradients away the first time; "
            "set fused_loss to 'as written' for retain_graph=True"
        )
    gradients, ctx.gradients = ctx.gradients, None
    (count,) = ctx.saved_tensors
    return gradients, grad_loss / count.clamp_min(1)


def _rows(device: str, classes: int) -> int:
    return max(_FEWEST_ROWS, _BLOCK_BYTES.get(device, _GPU_BLOCK_BYTES) // (4 * classes))
