"""Whitening: a linear map after which features have no correlations and one variance.

A contrastive encoder puts most of its features' variance into few directions, which then decide every distance.
Jégou, Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening", ECCV 2012,
https://hal.inria.fr/hal-00722622
"""

import torch
from torch import Tensor, nn

from roost.errors import BadSettings

SMALLEST = 1e-4
"""Standard deviations below this share of the largest are taken as this share: dividing by them would raise noise."""


@torch.no_grad()
def fit(features: Tensor, *, dim: int) -> nn.Linear:
    """Fit PCA whitening.

    Args:
        features: Shape (n, feature_dim).
        dim: Principal components to keep, those of most variance.

    Returns:
        A frozen map from (..., feature_dim) to (..., dim); over `features`, its mean is 0 and its covariance the unit
        matrix, but for directions of nearly no variance.

    Raises:
        BadSettings: More components than there are features or images.
    """
    most = min(features.shape)
    if not 1 <= dim <= most:
        raise BadSettings(
            f"Whitening cannot keep {dim} dimensions of {features.shape[1]} features of {len(features)} images. "
            f"Set whiten to {most} or less.",
            whiten=dim,
        )
    exact = features.double().cpu()
    mean = exact.mean(dim=0)
    variances, directions = torch.linalg.eigh((exact - mean).T @ (exact - mean) / len(exact))
    deviations = variances.clamp_min(0).sqrt()
    deviations = deviations.clamp_min(SMALLEST * deviations[-1].item() or 1.0)
    weight = (directions / deviations).T.flip(0)[:dim]
    linear = nn.Linear(features.shape[1], dim).requires_grad_(requires_grad=False)
    linear.load_state_dict({"weight": weight, "bias": -weight @ mean})
    return linear.to(features.device)
