"""The nearest orthogonal matrix by matrix products alone.

For ``G = U S Vᵀ`` the factor ``U Vᵀ`` keeps the directions of G and sets every singular value to one. A
singular value decomposition would give it exactly and slowly; the odd polynomial ``x ↦ a·x + b·x³ + c·x⁵``
applied to G acts on its singular values alone and needs three matrix products, the thing hardware does best,
in bf16. The coefficients make the slope at zero as steep as possible, at the price of not converging: after
five rounds the singular values that were not tiny lie in about 0.7 to 1.2, which an optimizer does not
notice.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon); Bernstein & Newhouse, "Old Optimizer, New Norm", 2024 (arXiv 2409.20325).
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    matrices: Tensor,
    *,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Orthogonalise a batch of matrices, ``[B, rows, cols]``, in one call; returns ``dtype`` [B, rows, cols].

    A matrix that is zero stays zero: ``eps`` bounds the norm that it is divided by from below.
    """
    a, b, c = coefficients
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.to(dtype)
    # The Gram matrix below is as large as the first dimension, so that one had better be the smaller.
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
