"""How many dimensions an embedding really uses, and whether it spreads at all."""

import numpy as np
import torch
from torch import Tensor

from roost_training.evaluate.hypersphere import unit

EPSILON = 1e-7  # the paper's, for float32
MAX_IMAGES = 5_000


def signs_of_collapse(features: Tensor) -> dict[str, float]:
    """`rankme` and `feature_std` of an encoder's features, shape (n, dim), at unit length.

    Of more than 5,000 images every second, third and so on counts. They are taken before any whitening, which would
    hide a collapse.
    """
    some = unit(features[:: -(-len(features) // MAX_IMAGES)])
    return {"rankme": rankme(some), "feature_std": feature_std(some)}


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


def feature_std(embeddings: Tensor | np.ndarray) -> float:
    """The standard deviation of unit-length embeddings, averaged over dimensions, times the root of their number.

    The sign of collapse in SimSiam (Chen and He, CVPR 2021, section 4.1, https://arxiv.org/abs/2011.10566), which
    plots it without the root.

    Args:
        embeddings: Shape (n, dim), of any length.

    Returns:
        0 where all embeddings are one direction; about 1 where they point everywhere alike.

    Raises:
        ValueError: Not (n, dim) with n > 0.
    """
    embeddings = unit(embeddings)
    return embeddings.double().std(dim=0, correction=0).mean().item() * embeddings.shape[1] ** 0.5
