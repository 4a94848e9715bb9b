"""Instance discrimination: tell every image from all others by what a memory bank remembers of them.

Wu, Xiong, Yu, Lin, CVPR 2018, https://arxiv.org/abs/1805.01978
"""

import math
from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed
from roost_training.blocks.memory import Bank
from roost_training.images.data import Images
from roost_training.views.recipe import Probability, Recipe, View


class Config(methods.Config):
    """Instance discrimination's settings."""

    temperature: PositiveFloat = 0.07
    dim: PositiveInt = 128
    negatives: NonNegativeInt = 0  # the paper: 4096 on ImageNet
    """Images drawn as noise for a batch (the paper: for each of its images); 0 for the exact softmax over all, which
    is affordable up to some 100,000 images."""
    momentum: Probability = 0.5
    """What a vector of the bank keeps of itself when its image is seen again."""
    proximal: NonNegativeFloat = 0.0
    """Weight of the pull towards an image's own vector in the bank, lambda in equation 10; it steadies the NCE."""


class Method(methods.Method):
    """Classifies images into as many classes as there are images, whose weights are a memory bank."""

    wants_indices = True
    log_z: Tensor
    """Logarithm of the softmax's normalising constant: the first batch's (section 3.2), infinite until then."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.projector = nn.Linear(feature_dim, config.dim)
        self.register_buffer("log_z", torch.tensor(math.inf))

    def views(self, base: Recipe, size: int) -> list[View]:
        """One: the bank stands for the other."""
        return [View(base, size)]

    def prepare(self, images: Images) -> None:
        """Make the bank."""
        self.bank = Bank(len(images), self.config.dim)

    def forward(self, views: Sequence[Tensor], indices: Tensor) -> dict[str, Tensor]:
        """The loss over one view (batch, 3, size, size) of the images at `indices`."""
        (view,) = views
        v = functional.normalize(self.projector(self.encoder(view)).float(), dim=1)
        own = self.bank.rows[indices]
        if self.config.negatives:
            loss = self._nce(v, own)
        else:
            loss = exact(v, self.bank.rows.clone(), indices, temperature=self.config.temperature)
        loss = loss + self.config.proximal * (v - own).square().sum(1).mean()
        self.bank.update(indices, v, momentum=self.config.momentum)
        return {"loss": loss}

    def _nce(self, v: Tensor, own: Tensor) -> Tensor:
        images = len(self.bank.rows)
        noise = self.bank.rows[torch.randint(images, (self.config.negatives,), device=v.device)]
        with torch.autocast(v.device.type, enabled=False):
            positive = (v * own).sum(1) / self.config.temperature
            negative = v @ noise.T / self.config.temperature
        self.log_z.copy_(torch.where(self.log_z.isinf(), normaliser(negative, images=images), self.log_z))
        return nce(positive - self.log_z, negative - self.log_z, images=images)


def exact(v: Tensor, bank: Tensor, indices: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of the non-parametric softmax (equations 2 and 3), mean over rows.

    Args:
        v: Unit length, shape (batch, dim).
        bank: Unit length, one row an image, shape (images, dim).
        indices: Each row's image, int64 (batch,).
        temperature: Divides cosine similarities; > 0.

    Returns:
        A scalar >= 0. Where each row is its image's vector and those are orthogonal,
        log(1 + (images - 1) e^(-1/temperature)); where all are one vector, log(images).

    Raises:
        ValueError: A temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature of {temperature}; it must be positive")
    with torch.autocast(v.device.type, enabled=False):
        return functional.cross_entropy(v.float() @ bank.float().T / temperature, indices)


def nce(positive: Tensor, negative: Tensor, *, images: int) -> Tensor:
    """Noise-contrastive estimate of the exact loss (equations 6 and 7), mean over rows.

    Args:
        positive: log P(i | v) of each row's own image, shape (batch,).
        negative: log P(i | v) of images drawn uniformly as noise, shape (batch, m).
        images: How many there are to draw from.

    Returns:
        A scalar >= 0. Where P is uniform, which is what collapse comes to, log(1 + m) + m log(1 + 1/m).
    """
    noise = math.log(negative.shape[1] / images)
    return functional.softplus(noise - positive).mean() + functional.softplus(negative - noise).sum(1).mean()


@torch.no_grad()
def normaliser(scores: Tensor, *, images: int) -> Tensor:
    """Logarithm of the softmax's constant Z, estimated over all processes (equation 8).

    Args:
        scores: v f / temperature for images drawn uniformly, shape (batch, m).
        images: How many there are.

    Returns:
        A scalar: log(images) plus the logarithm of the mean of e^scores.
    """
    sums = distributed.gather(scores.logsumexp(dim=(0, 1))[None])
    return sums.logsumexp(0) - math.log(len(sums) * scores.numel() / images)
