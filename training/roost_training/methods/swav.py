"""SwAV: predict from one view the cluster of another, with clusters assigned online.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, NeurIPS 2020, https://arxiv.org/abs/2006.09882
"""

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import multicrop
from roost_training.blocks.heads import mlp
from roost_training.blocks.memory import Queue
from roost_training.blocks.prototypes import Prototypes
from roost_training.blocks.sinkhorn import sinkhorn
from roost_training.views.recipe import Probability, Recipe, View


class Config(methods.Config):
    """SwAV's settings."""

    temperature: PositiveFloat = 0.1
    epsilon: PositiveFloat = 0.05
    """Softness of the assignments."""
    iterations: PositiveInt = 3
    """Of the Sinkhorn algorithm."""
    prototypes: PositiveInt = 256  # the paper: 3000 for ImageNet's 1000 classes
    frozen: Probability = 0.01  # the paper: the first of 100 to 800 epochs
    """Share of training in which the prototypes stay as they were drawn."""
    queue: NonNegativeInt = 0  # the paper: 3840, with batches of 256
    """Projections of earlier batches that are assigned too, once there are so many: for batches that are small
    beside the number of prototypes."""
    hidden: PositiveInt = 512  # the paper: 2048, the length of ResNet-50's features
    dim: PositiveInt = 128
    """Length of a projection."""
    local_crops: NonNegativeInt = 4  # the paper: 6
    local_size: PositiveInt | None = None
    """Side of the local crops in pixels; half of the image's where not given."""
    split: Probability = 0.14
    """The most of an image's area that a local crop shows, and the least that a global one does."""


class Method(methods.Method):
    """Assigns the global crops to prototypes and predicts that from every other crop."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.projector = mlp(feature_dim, config.hidden, config.dim)
        self.prototypes = Prototypes(config.dim, config.prototypes, frozen=config.frozen)
        self.queue = Queue(config.queue, multicrop.GLOBAL * config.dim) if config.queue else None

    def views(self, base: Recipe, size: int) -> list[View]:
        """Two global crops and the local ones."""
        chosen = self.config
        return multicrop.crops(base, size, local=chosen.local_crops, local_size=chosen.local_size, split=chosen.split)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over views, each (batch, 3, side, side), the two global ones first."""
        z = functional.normalize(self.projector(multicrop.encode(self.encoder, views)).float(), dim=1)
        z = z.unflatten(0, (len(views), -1))
        codes = self._codes(z[: multicrop.GLOBAL].detach())
        return {"loss": swapped_prediction(codes, self.prototypes(z), temperature=self.config.temperature)}

    def after_step(self, progress: float) -> None:
        """Bring the prototypes back to unit length."""
        self.prototypes.after_step(progress)

    @torch.no_grad()
    def _codes(self, z: Tensor) -> Tensor:
        """Assignments (2, batch, prototypes) of the global crops' projections (2, batch, dim), which the queue gets."""
        chosen = self.config
        codes = [
            sinkhorn(
                self.prototypes(own),
                shared=self.prototypes(earlier),
                epsilon=chosen.epsilon,
                iterations=chosen.iterations,
            )
            for own, earlier in zip(z, self._earlier(z), strict=True)
        ]
        if self.queue is not None:
            self.queue.push(z.transpose(0, 1).flatten(1))
        return torch.stack(codes)

    def _earlier(self, z: Tensor) -> Tensor:
        """What the queue has for each global crop, (2, size, dim); no rows until it is full."""
        if self.queue is None or not self.queue.full:
            return z[:, :0]
        return self.queue.rows.unflatten(1, (len(z), -1)).transpose(0, 1)


def swapped_prediction(codes: Tensor, scores: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of each view's prediction with each other view's codes (equations 1 and 6).

    The codes are Sinkhorn's, made over the rows of all processes; the mean is over a process's own rows.

    Args:
        codes: Of the global crops, rows that sum to 1, shape (2, batch, prototypes).
        scores: Cosines of all crops with the prototypes, the global ones first, shape (views, batch, prototypes).
        temperature: Divides the scores; > 0.

    Returns:
        A scalar >= 0; log(prototypes) where all scores are equal, as in collapse.

    Raises:
        ValueError: A temperature that is not positive, or shapes that do not match.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature of {temperature}; it must be positive")
    return multicrop.cross_entropy(codes, scores / temperature)
