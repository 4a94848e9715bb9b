"""Momentum copies: a teacher whose weights are a moving average of the student's."""

import copy
import math

import torch
from torch import nn


def teacher_of(student: nn.Module) -> nn.Module:
    """A copy that no gradient reaches, to be moved by `follow`."""
    return copy.deepcopy(student).requires_grad_(requires_grad=False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """Move a teacher towards its student: teacher = momentum * teacher + (1 - momentum) * student.

    Buffers, such as a batch norm's running mean, are the teacher's own.

    Args:
        teacher: Of `teacher_of`.
        student: What it was copied from.
        momentum: 0 (become the student) to 1 (stay).
    """
    for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
        theirs.lerp_(ours, 1 - momentum)


def cosine_momentum(base: float, progress: float) -> float:
    """BYOL's schedule: from `base` to 1 along half a cosine (Grill and others, 2020, section 3.3).

    Args:
        base: The momentum at the start, 0 to 1.
        progress: The share of training that is done, 0 to 1.
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
