"""Patches of images: where they are cut, and what hides the ways to tell their places without looking.

A network finds a patch's place from edges that run on, from the lens's chromatic aberration, and from the statistics
of its pixels: hence gaps and jitter, colours that are dropped, and patches that are standardised (Doersch, Gupta and
Efros, ICCV 2015, https://arxiv.org/abs/1505.05192, section 3.1; Noroozi and Favaro, ECCV 2016,
https://arxiv.org/abs/1603.09246, section 4.2). What is random is drawn from torch's global generator.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

NOISE = 0.01
"""Standard deviation of what stands in for a dropped channel, in those of the channel that is left."""


def cut(images: Tensor, places: Tensor, *, side: int) -> Tensor:
    """Cut square patches out of each image.

    Args:
        images: Shape (n, channels, height, width).
        places: The patches' first rows and columns, int64 of shape (n, k, 2).
        side: Of a patch, in pixels.

    Returns:
        Shape (n, k, channels, side, side).
    """
    windows = images.unfold(2, side, 1).unfold(3, side, 1)
    own = torch.arange(len(images), device=images.device)[:, None]
    return windows[own, :, places[..., 0], places[..., 1]]


def jittered_grid(images: Tensor, *, grid: int, share: float) -> Tensor:
    """Cut each image into grid x grid cells, and a patch from a random place within each cell.

    Args:
        images: Shape (n, channels, size, size). Pixels beyond grid whole cells are left out.
        grid: Cells along an axis.
        share: Side of a patch as a share of its cell's, up to 1. The rest is the mean gap between neighbours.

    Returns:
        Shape (n, grid * grid, channels, side, side), the cells counted by rows.

    Raises:
        ValueError: Cells without a pixel, or a share beyond 0..1.
    """
    cell = images.shape[-1] // grid
    if not cell or not 0 < share <= 1:
        raise ValueError(f"patches of {share} cells of {cell} pixels; 0 to 1 are possible, of 1 pixel or more")
    side = max(1, round(share * cell))
    first = torch.arange(grid, device=images.device) * cell
    corners = torch.cartesian_prod(first, first)
    jitter = torch.randint(cell - side + 1, (len(images), grid * grid, 2), device=images.device)
    return cut(images, corners + jitter, side=side)


def overlapping_grid(images: Tensor, *, side: int, stride: int) -> Tensor:
    """Cut patches every `stride` pixels.

    Args:
        images: Shape (n, channels, height, width).
        side: Of a patch, in pixels.
        stride: From a patch to the next, in pixels; patches overlap where it is less than `side`.

    Returns:
        Shape (n, rows, columns, channels, side, side), as many as fit.

    Raises:
        ValueError: A patch larger than the images.
    """
    if not 0 < side <= min(images.shape[2:]):
        raise ValueError(f"patches of {side} pixels do not fit images of {images.shape[2]} x {images.shape[3]}")
    return images.unfold(2, side, stride).unfold(3, side, stride).permute(0, 2, 3, 1, 4, 5)


def encode(encoder: nn.Module, patches: Tensor) -> Tensor:
    """Features of patches, which all pass the same encoder as one batch.

    Args:
        encoder: Maps images (batch, channels, side, side) to features (batch, dim).
        patches: Shape (n, k, channels, side, side).

    Returns:
        Shape (n, k, dim).
    """
    return encoder(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])


def drop_colours(patches: Tensor, *, chance: float) -> Tensor:
    """Replace two of a patch's three channels by faint noise, as Doersch and others do.

    Args:
        patches: Normalised, shape (..., 3, height, width).
        chance: That a patch loses them, 0 to 1; each patch is drawn on its own, and so is the channel that is left.

    Returns:
        A copy.
    """
    some = patches.shape[:-3]
    left = torch.randint(3, (*some, 1, 1, 1), device=patches.device)
    kept = torch.arange(3, device=patches.device)[:, None, None] == left
    kept |= torch.rand((*some, 1, 1, 1), device=patches.device) >= chance
    spread = patches.std((-2, -1), keepdim=True).gather(-3, left)
    return torch.where(kept, patches, torch.randn_like(patches) * (NOISE * spread))


def drop_saturation(patches: Tensor, *, chance: float) -> Tensor:
    """Make patches grey: all their channels become the channels' mean.

    Args:
        patches: Normalised, shape (..., 3, height, width).
        chance: That a patch is, 0 to 1; each patch is drawn on its own.

    Returns:
        A copy.
    """
    chosen = torch.rand((*patches.shape[:-3], 1, 1, 1), device=patches.device) < chance
    return torch.where(chosen, patches.mean(-3, keepdim=True), patches)


def standardise(patches: Tensor) -> Tensor:
    """Bring every channel of every patch to a mean of 0 and a standard deviation of 1; flat channels become 0.

    Args:
        patches: Shape (..., channels, height, width).
    """
    variance, mean = torch.var_mean(patches, (-2, -1), correction=0, keepdim=True)
    return (patches - mean) / (variance + 1e-5).sqrt()


def tile(patches: Tensor, *, gap: int = 1) -> Tensor:
    """Lay each image's patches side by side, to be looked at.

    Args:
        patches: Shape (n, k * k, channels, side, side), counted by rows.
        gap: Pixels of 0 after every patch.

    Returns:
        Shape (n, channels, k * (side + gap), k * (side + gap)).
    """
    k = math.isqrt(patches.shape[1])
    framed = functional.pad(patches, (0, gap, 0, gap)).unflatten(1, (k, k))
    return framed.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
