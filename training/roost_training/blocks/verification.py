"""Verification: is this the same thing or another, told by how alike two embeddings are."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Threshold:
    """From which similarity on a pair is accepted as the same, and what that costs."""

    similarity: float
    false_accepts: float
    """The share of different pairs that are accepted, 0 to 1."""
    false_rejects: float
    """The share of same pairs that are not."""


def calibrate(same: Tensor, different: Tensor, *, false_accepts: float | None = None) -> Threshold:
    """The threshold at which as few same pairs are rejected as a share of false accepts allows.

    Args:
        same: Similarities of pairs that are the same, shape (n,).
        different: Of pairs that are not, shape (m,).
        false_accepts: The share of different pairs that may be accepted, 0 to 1; where None, the threshold at which
            false accepts and false rejects are nearest to each other: the equal error rate is their mean.

    Raises:
        ValueError: No pairs of a kind.
    """
    if not len(same) or not len(different):
        raise ValueError(f"{len(same)} same and {len(different)} different pairs; both are needed")
    same, different = same.double().sort().values, different.double().sort().values
    candidates = torch.cat([same, different]).unique()
    candidates = torch.cat([candidates, candidates[-1:].nextafter(candidates.new_tensor(torch.inf))])  # accepts none
    accepted = (len(different) - torch.searchsorted(different, candidates)).double() / len(different)  # falls along
    rejected = torch.searchsorted(same, candidates).double() / len(same)  # rises
    if false_accepts is None:
        best = int((accepted - rejected).abs().argmin())
    else:
        best = int((accepted <= false_accepts).int().argmax())
    return Threshold(
        similarity=float(candidates[best]),
        false_accepts=float(accepted[best]),
        false_rejects=float(rejected[best]),
    )
