"""Multi-crop: two large crops of an image, which see most of it, and small ones, which cost little.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, NeurIPS 2020, https://arxiv.org/abs/2006.09882, section 3.3
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # what all batch norms are, those over several processes too

from roost_training.views.recipe import Recipe, View

GLOBAL = 2
"""Crops that see most of an image; they come first."""


def crops(base: Recipe, size: int, *, local: int, local_size: int | None, split: float) -> list[View]:
    """Two global crops, then the local ones.

    Args:
        base: How the run makes views; its `crop_scale` is what `split` divides.
        size: Side of a global crop, in pixels.
        local: Number of local crops.
        local_size: Their side in pixels; half of `size` where None (the papers: 96 of 224).
        split: The most of an image's area that a local crop shows, and the least that a global one does. Where it
            lies outside `crop_scale`, the nearer end is taken.
    """
    low, high = base.crop_scale
    split = min(max(split, low), high)
    large = View(base.model_copy(update={"crop_scale": (split, high)}), size)
    small = View(base.model_copy(update={"crop_scale": (low, split)}), local_size or size // 2)
    return [large] * GLOBAL + [small] * local


def encode(encoder: nn.Module, views: Sequence[Tensor]) -> Tensor:
    """Encode views of several sizes: neighbours of one size pass the encoder as one batch.

    Batch norms count only the first size in their running statistics, by which they serve whole images; the authors
    count all.

    Args:
        encoder: Takes images of each of the sizes.
        views: Each (batch, 3, side, side).

    Returns:
        Features (len(views) * batch, dim), the first view's rows first.
    """
    sizes = [torch.cat(list(alike)) for _, alike in itertools.groupby(views, key=lambda view: view.shape[2:])]
    features = [encoder(sizes[0])]
    with _norms_at_rest(encoder):
        features += [encoder(images) for images in sizes[1:]]
    return torch.cat(features)


@contextlib.contextmanager
def _norms_at_rest(encoder: nn.Module) -> Iterator[None]:
    momenta = {norm: norm.momentum for norm in encoder.modules() if isinstance(norm, _BatchNorm)}
    try:
        for norm in momenta:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def cross_entropy(targets: Tensor, logits: Tensor) -> Tensor:
    """What each view's prediction of each other view's target costs, mean over images and pairs of views.

    Args:
        targets: Distributions over prototypes, made of the first views, shape (targets, batch, prototypes).
        logits: Of all views, in the same order, shape (views, batch, prototypes); views >= targets, and >= 2.

    Returns:
        A scalar >= 0: the targets' entropy where every prediction equals them, and log(prototypes) where predictions
        are uniform.

    Raises:
        ValueError: One view, fewer views than targets, or shapes that differ otherwise.
    """
    if len(logits) < max(2, len(targets)) or targets.shape[1:] != logits.shape[1:]:
        raise ValueError(f"targets of shape {tuple(targets.shape)} for logits of shape {tuple(logits.shape)}")
    with torch.autocast(logits.device.type, enabled=False):
        predictions = logits.float().log_softmax(dim=2)
        pairs = -targets.float().flatten(1) @ predictions.flatten(1).T / targets.shape[1]
    same = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(same, 0.0).sum() / (pairs.numel() - len(pairs))
