"""Siamese networks: tell whether two images are the same, by twin encoders whose outputs' cosine decides.

Bromley, Guyon, LeCun, Säckinger, Shah, Signature Verification using a "Siamese" Time Delay Neural Network, NIPS 1993,
with the cross-entropy over pairs of Koch, Zemel, Salakhutdinov, Siamese Neural Networks for One-shot Image
Recognition, ICML 2015 deep learning workshop. A threshold of similarity is calibrated as Chopra, Hadsell, LeCun do,
CVPR 2005, https://doi.org/10.1109/CVPR.2005.202: on images that were not trained on.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed, pairs
from roost_training.blocks.heads import mlp
from roost_training.blocks.verification import calibrate

MAX_CALIBRATED = 1_000
"""Held-out images whose pairs calibrate the threshold: every two of them."""


class Config(methods.Config):
    """The settings of siamese verification."""

    similar: Literal["views", "labels"] = "views"
    """Which images are the same: the views of one, or those of a class."""
    dim: PositiveInt = 128
    """Length of a projection, whose cosines are compared."""
    false_accepts: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of different pairs that the threshold may accept; where not given, it errs both ways alike."""


class Method(methods.Method):
    """Learns to verify, and puts the threshold that its embeddings need into the manifest.

    The manifest's `accept_threshold` is the cosine from which two embeddings, as they are served, are of the same.
    """

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.wants_labels = config.similar == "labels"
        self.projector = mlp(feature_dim, feature_dim, config.dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-5.0))  # undecided half-way between orthogonal and equal

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """The loss over all pairs of views, each (batch, 3, size, size), of every process."""
        z = distributed.gather(
            functional.normalize(self.projector(self.encoder(torch.cat(list(views)))).float(), dim=1)
        )
        names = pairs.instances(len(views[0]), z.device) if labels is None else labels
        same = pairs.alike(distributed.gather(names.repeat(len(views))))
        with torch.autocast(z.device.type, enabled=False):
            logits = self.log_scale.exp() * (z @ z.T) + self.bias
        return {"loss": verification_loss(logits, same=same, different=~same & pairs.apart(len(z), z.device))}

    def figures(self, embeddings: Tensor, held_out: methods.HeldOut) -> dict[str, float]:
        """The calibrated threshold; none where the held-out images make no same, or no different, pair."""
        names = held_out.labels if self.wants_labels else torch.arange(len(held_out.embeddings))
        if names is None:
            return {}
        views = [held_out.embeddings] if self.wants_labels else held_out.views()
        step = -(-len(names) // MAX_CALIBRATED)
        z = torch.cat([view[::step] for view in views]).cpu()
        names = names[::step].repeat(len(views))
        first, second = torch.triu_indices(len(z), len(z), offset=1)
        similarity, same = (z @ z.T)[first, second], names[first] == names[second]
        if same.all() or not same.any():
            return {}
        found = calibrate(similarity[same], similarity[~same], false_accepts=self.config.false_accepts)
        balanced = calibrate(similarity[same], similarity[~same])
        return {
            "accept_threshold": found.similarity,
            "false_accept_rate": found.false_accepts,
            "false_reject_rate": found.false_rejects,
            "equal_error_rate": (balanced.false_accepts + balanced.false_rejects) / 2,
        }


def verification_loss(logits: Tensor, *, same: Tensor, different: Tensor) -> Tensor:
    """Cross-entropy of telling same from different pairs, each kind weighing half, as in Koch's batches.

    Args:
        logits: Of a pair's being the same, shape (n, m).
        same: Which pairs are, bool of the same shape.
        different: Which are not; the others do not count.

    Returns:
        A scalar >= 0; log 2 where every logit is 0, which is the least that embeddings that are all the same can reach.
        A kind without pairs adds 0.
    """
    missed = (functional.softplus(-logits) * same).sum() / same.sum().clamp_min(1)
    mistaken = (functional.softplus(logits) * different).sum() / different.sum().clamp_min(1)
    return (missed + mistaken) / 2
