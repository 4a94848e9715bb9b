"""Must-link and cannot-link constraints: what a person knows of a few pairs, beside SimCLR on all images.

The pairs and what follows from them are Wagstaff's (ICML 2001); as in Hsu and Kira, Neural Network-based Clustering
using Pairwise Constraints, 2016, https://arxiv.org/abs/1511.06321, they train a network, here by DrLIM's loss on
projections in place of a divergence between clusterings, whose number would have to be known.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import constraints, distributed, memory, pairs
from roost_training.blocks.heads import mlp
from roost_training.images.data import Images
from roost_training.methods.simclr import nt_xent


class Config(methods.Config):
    """The settings of learning with constraints."""

    pairs: Path
    """A CSV file of lines `path_a,path_b,must` or `path_a,path_b,cannot`; paths are relative to the data folder."""
    weight: NonNegativeFloat = 1.0
    """Of an image's constraints against its two views, in SimCLR's loss."""
    margin: PositiveFloat = 1.4
    """How far apart unit-length projections must be that cannot be linked: about a right angle."""
    temperature: PositiveFloat = 0.2
    dim: PositiveInt = 128
    momentum: NonNegativeFloat = 0.5
    """Of the bank, in which every image keeps its projection."""


class Method(methods.Method):
    """Holds each view against the bank's projections of the images that it must, or cannot, be linked with.

    Two images of a pair rarely meet in a batch, and batches made of pairs alone would show the others too seldom; a
    bank lets every constraint of an image count whenever that image comes.
    """

    wants_indices = True
    groups: Tensor
    apart: Tensor
    seen: Tensor

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.projector = mlp(feature_dim, feature_dim, config.dim)

    def prepare(self, images: Images) -> None:
        """Read the pairs."""
        self.known = constraints.read(self.config.pairs, images)
        self.fingerprint = self.known.fingerprint
        self.bank = memory.Bank(len(images), self.config.dim)
        self.register_buffer("seen", torch.zeros(len(images), dtype=torch.bool))
        self.register_buffer("groups", torch.from_numpy(self.known.groups), persistent=False)
        self.register_buffer("apart", torch.from_numpy(self.known.apart), persistent=False)

    def forward(self, views: Sequence[Tensor], indices: Tensor) -> dict[str, Tensor]:
        """The loss over two views, each (batch, 3, size, size), of the images at these places."""
        z = functional.normalize(self.projector(self.encoder(torch.cat(list(views)))).float(), dim=1)
        alike = nt_xent(z, self.config.temperature)
        linked = self._linked(distributed.gather(z), distributed.gather(indices.repeat(len(views))))
        if self.training:
            self._remember(z.detach(), indices)
        return {"loss": alike + self.config.weight * linked, "linked": linked.detach()}

    def _linked(self, z: Tensor, who: Tensor) -> Tensor:
        """The contrastive loss of the rows that have constraints, against the bank's; the others' is 0 in the mean."""
        constrained = self.groups[who] >= 0
        share = constrained.float().mean()
        z, who = z[constrained], who[constrained]
        others = (self.seen & (self.groups >= 0)).nonzero()[:, 0]
        ours, theirs = self.groups[who][:, None], self.groups[others]
        return share * pairs.contrastive(
            pairs.distances(z, self.bank.rows[others]),
            similar=(ours == theirs) & (who[:, None] != others),
            dissimilar=self.apart[ours, theirs],
            margin=self.config.margin,
        )

    def _remember(self, z: Tensor, indices: Tensor) -> None:
        mean = functional.normalize(z.view(-1, len(indices), z.shape[1]).mean(0), dim=1)
        self.bank.update(indices, mean, momentum=self.config.momentum)
        self.seen[distributed.gather(indices)] = True

    def figures(self, embeddings: Tensor, held_out: methods.HeldOut) -> dict[str, float]:
        """How many constraints were learnt from, and the mean cosine of their images as they are served."""
        found: dict[str, float] = {}
        for kind, chosen in (("must", self.known.must), ("cannot", self.known.cannot)):
            found[f"{kind}_links"] = len(chosen)
            if len(chosen):
                first, second = (embeddings[side] for side in torch.from_numpy(chosen.T))
                found[f"{kind}_link_cosine"] = float((first * second).sum(1).mean())
        return found
