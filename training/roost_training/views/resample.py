"""Crops, flips, turns and blurs of a batch, as one pair of small matrices or one sampling grid per image.

Images here are float32 planes of shape (3, n, height, width): colour first, so that one channel of the whole
batch lies together in memory.
"""

import torch
from torch import Tensor
from torch.nn import functional

MAX_SUPERSAMPLE = 4


def axis_weights(*, start: Tensor, length: Tensor, flip: Tensor, source: int, size: int) -> Tensor:
    """Matrices that cut an interval out of an axis and scale it, with the antialiased triangle filter.

    It is Pillow's and torchvision's antialiased bilinear: the triangle spans one source pixel when enlarging and one
    target pixel when shrinking, and what lies outside the interval does not count.

    Args:
        start: First pixel of each interval, shape (n,).
        length: Pixels in each interval, shape (n,).
        flip: Mirror the result, bool of shape (n,).
        source: Pixels along the axis.
        size: Pixels along the result.

    Returns:
        float32 of shape (n, size, source), rows summing to 1.
    """
    step = (length / size)[:, None]
    target = torch.arange(size, device=start.device)
    target = torch.where(flip[:, None], size - 1 - target, target)
    centre = start[:, None] + (target + 0.5) * step - 0.5
    position = torch.arange(source, device=start.device, dtype=torch.float32)
    width = step.clamp_min(1).reciprocal()
    weights = (position * width[:, :, None] - (centre * width)[:, :, None]).abs_().neg_().add_(1).clamp_min_(0)
    inside = (position >= start[:, None]) & (position < (start + length)[:, None])
    weights.mul_(inside[:, None, :])
    return weights.div_(weights.sum(2, keepdim=True))


def separable(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply images by a matrix from either side.

    Args:
        planes: Shape (3, n, height, width).
        rows: Shape (n, new height, height).
        columns: Shape (n, new width, width).

    Returns:
        Shape (3, n, new height, new width).
    """
    turned = columns.mT
    result = planes.new_empty(3, len(rows), rows.shape[1], columns.shape[1])
    for plane, target in zip(planes, result, strict=True):
        torch.bmm(rows, plane @ turned, out=target)
    return result


def blur_weights(sigma: Tensor, size: int) -> Tensor:
    """Matrices that blur an axis with a Gaussian, reflecting at the edges as torchvision does.

    Args:
        sigma: Standard deviations in pixels, shape (n,), > 0.
        size: Pixels along the axis.

    Returns:
        float32 of shape (n, size, size), rows summing to 1.
    """
    distance = torch.arange(2 * size - 1, device=sigma.device, dtype=torch.float32)
    kernel = torch.exp(distance.square() * (-0.5 / sigma.square())[:, None])
    kernel[:, size:] = 0
    kernel.div_(2 * kernel.sum(1, keepdim=True) - kernel[:, :1])
    # A window that slides along the kernel is a matrix of i + j; along the mirrored kernel, one of i - j.
    mirrored = torch.cat([kernel[:, :size].flip(1), kernel[:, 1:size]], dim=1)
    weights = mirrored.unfold(1, size, 1).flip(1)
    weights[:, :, 1:] += kernel.unfold(1, size, 1)[:, :, 1:]
    weights[:, :, :-1] += kernel.flip(1).unfold(1, size, 1)[:, :, :-1]
    return weights


def warp(planes: Tensor, grid_from: Tensor, *, size: int, supersample: int) -> Tensor:
    """Sample images under one affine map each; what lies outside repeats the border.

    Args:
        planes: Shape (3, n, height, width).
        grid_from: Maps of target to source coordinates, both -1..1 from edge to edge, shape (n, 2, 3).
        size: Side of the result, in pixels.
        supersample: Bilinear samples per pixel and axis, averaged: the antialiasing when shrinking.

    Returns:
        Shape (3, n, size, size).
    """
    images = planes.transpose(0, 1)
    fine = size * supersample
    grid = functional.affine_grid(grid_from, [len(images), 3, fine, fine], align_corners=False)
    sampled = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if supersample > 1:
        sampled = functional.avg_pool2d(sampled, supersample)
    return sampled.transpose(0, 1).contiguous()
