"""Alignment and uniformity: the two properties that the contrastive loss optimises in the limit.

Wang and Isola, ICML 2020, section 4.1, https://arxiv.org/abs/2005.10242
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MAX_PAIRS = 2**24  # 64 MiB of float32 at a time


def alignment(za: Tensor | np.ndarray, zb: Tensor | np.ndarray, *, alpha: float = 2.0) -> float:
    """The mean distance between an image's two views, to the power of alpha (equation 5).

    Args:
        za: Embeddings of one view, shape (n, dim), of any length.
        zb: Embeddings of the other, in the same order.
        alpha: The power.

    Returns:
        0 where both views are embedded alike; for alpha = 2 it is 2 where they are orthogonal, and at most 4.

    Raises:
        ValueError: Shapes that differ, or are not (n, dim) with n > 0.
    """
    za, zb = unit(za), unit(zb)
    if za.shape != zb.shape:
        raise ValueError(f"views of shapes {tuple(za.shape)} and {tuple(zb.shape)}")
    return (za - zb).norm(dim=1).pow(alpha).double().mean().item()


def uniformity(embeddings: Tensor | np.ndarray, *, t: float = 2.0) -> float:
    """The logarithm of the mean Gaussian kernel over all pairs of images (equation 6).

    Args:
        embeddings: Shape (n, dim), of any length, n >= 2.
        t: Sharpness of the kernel exp(-t |x - y|²).

    Returns:
        0 for collapsed embeddings, below it for others; -2t where all are orthogonal to each other. Lower is better.

    Raises:
        ValueError: Not (n, dim) with n >= 2.
    """
    embeddings = unit(embeddings)
    n = len(embeddings)
    if n < 2:
        raise ValueError("one embedding has no pairs; at least two are needed")
    total = 0.0
    for start in range(0, n, step := max(1, MAX_PAIRS // n)):
        rows = embeddings[start : start + step]
        kernel = (2 * t * (rows @ embeddings.T - 1)).exp()
        kernel[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = 0  # an image is no pair with itself
        total += kernel.sum(dtype=torch.float64).item()
    return math.log(total / (n * (n - 1)))


def unit(embeddings: Tensor | np.ndarray) -> Tensor:
    """Embeddings scaled to unit length, float32 (n, dim); ValueError where the shape is another."""
    embeddings = torch.as_tensor(embeddings)
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"embeddings of shape {tuple(embeddings.shape)}; (n, dim) with n > 0 is needed")
    return functional.normalize(embeddings.float(), dim=1)
