"""The parameters of a group that have a gradient to step along: dense and real."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def with_gradient(group: Mapping[str, Any], algorithm: str) -> tuple[list[Tensor], list[Tensor]]:
    """(parameters, gradients) of a parameter group, those without a gradient left out.

    Raises ``ValueError`` for sparse or complex gradients, which ``algorithm`` has no rule for.
    """
    params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params if p.grad is not None]
    for grad in grads:
        if grad.is_sparse or grad.is_complex():
            kind = "sparse" if grad.is_sparse else "complex"
            raise ValueError(
                f"{algorithm} has no rule for a {kind} gradient (shape {tuple(grad.shape)}); "
                "use dense real gradients (nn.Embedding(sparse=False)), or another optimizer for it"
            )
    return params, grads
