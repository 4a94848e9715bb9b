"""How many dimensions an embedding really uses."""

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-7  # the paper's, for float32


def rankme(embeddings: Tensor | np.ndarray) -> float:
    """RankMe: the exponential of the entropy of the singular values' shares.

    Garrido, Balestriero, Najman, LeCun, ICML 2023, equation 1, https://arxiv.org/abs/2210.02885.
    The paper takes 25,600 embeddings; fewer than a few times `dim` read low.

    Args:
        embeddings: Shape (n, dim), neither centred nor scaled here.

    Returns:
        From about 1, where all embeddings are one direction, to about min(n, dim).

    Raises:
        ValueError: Not (n, dim) with n > 0, or a value that is not finite.
    """
    embeddings = torch.as_tensor(embeddings)
    if embeddings.ndim != 2 or not embeddings.numel():
        raise ValueError(f"embeddings of shape {tuple(embeddings.shape)}; (n, dim) with n > 0 is needed")
    if not embeddings.isfinite().all():
        raise ValueError("an embedding is not finite")
    tall = embeddings.double() if len(embeddings) >= embeddings.shape[1] else embeddings.double().T
    # Eigenvalues of the small Gram matrix in float64 cost a tenth of a decomposition of the tall one, and
    # their error in a singular value, 1e-8 of the largest, is below EPSILON.
    singular = torch.linalg.eigvalsh(tall.T @ tall).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(torch.finfo(torch.float64).tiny) + EPSILON
    return (-(share * share.log()).sum()).exp().item()
