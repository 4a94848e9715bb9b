"""Pairs of a batch's rows: how far apart they lie, which of them belong together, and what that costs."""

import torch
from torch import Tensor

from roost_training.blocks import distributed


def distances(za: Tensor, zb: Tensor) -> Tensor:
    """Euclidean distances, float32 of shape (n, m); where two rows are equal the gradient is zero.

    Args:
        za: Shape (n, dim).
        zb: Shape (m, dim).
    """
    with torch.autocast(za.device.type, enabled=False):
        # By products, as fast as it is, the distance of two near rows is mostly rounding.
        return torch.cdist(za.float(), zb.float(), compute_mode="donot_use_mm_for_euclid_dist")


def instances(rows: int, device: torch.device) -> Tensor:
    """A number for each row, int64 of shape (rows,), that no other row of this or another process has."""
    return distributed.rank() * rows + torch.arange(rows, device=device)


def alike(identities: Tensor) -> Tensor:
    """Which pairs of different rows have the same identity, bool of shape (n, n).

    Args:
        identities: Such as classes, shape (n,).
    """
    return (identities[:, None] == identities) & apart(len(identities), identities.device)


def apart(rows: int, device: torch.device) -> Tensor:
    """Which pairs are of two different rows: all but the diagonal, bool of shape (rows, rows)."""
    return ~torch.eye(rows, dtype=torch.bool, device=device)


def contrastive(distance: Tensor, *, similar: Tensor, dissimilar: Tensor, margin: float, pull: float = 1.0) -> Tensor:
    """DrLIM's loss (equation 4): a spring that pulls similar pairs, and one that pushes dissimilar pairs to a margin.

    Each kind has its own mean, and pairs beyond the margin, on which no force acts, do not thin out the second. The
    paper sums over pairs that are chosen one by one; all pairs of a batch are mostly dissimilar, and mostly far.

    Args:
        distance: Of each pair, >= 0, shape (n, m).
        similar: Which pairs are pulled together, bool of the same shape.
        dissimilar: Which pairs are pushed apart.
        margin: How far; > 0.
        pull: Weight of similar pairs against dissimilar ones.

    Returns:
        A scalar >= 0. Where every row is the same it is margin^2 / 2; a kind without pairs adds 0.

    Raises:
        ValueError: A margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"a margin of {margin}; it must be positive")
    near = dissimilar & (distance < margin)
    pulled = (distance.square() * similar).sum() / similar.sum().clamp_min(1)
    pushed = ((margin - distance).square() * near).sum() / near.sum().clamp_min(1)
    return (pull * pulled + pushed) / 2
