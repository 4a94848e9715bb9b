"""BYOL: predict what a slowly moving copy of the network makes of the image's other view.

Grill and others, NeurIPS 2020, https://arxiv.org/abs/2006.07733
"""

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks.heads import mlp
from roost_training.blocks.momentum import cosine_momentum, follow, teacher_of
from roost_training.views.recipe import Probability, Recipe, View


class Config(methods.Config):
    """BYOL's settings."""

    momentum: Probability = 0.99  # the paper: 0.996 for 1000 epochs, 0.99 for 300
    """The teacher's at the start; it rises to 1."""
    hidden: PositiveInt = 1024  # the paper: 4096 behind ResNet-50's 2048 features
    dim: PositiveInt = 256
    solarise: Probability = 0.2
    """Chance that the second view is solarised."""


class Method(methods.Method):
    """Regresses a teacher's projections; no image is contrasted with another."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.projector = mlp(feature_dim, config.hidden, config.dim)
        self.predictor = mlp(config.dim, config.hidden, config.dim)
        self.teacher = teacher_of(self._student())

    def views(self, base: Recipe, size: int) -> list[View]:
        """Two kinds (appendix B): the first blurs more, the second seldom and solarises.

        The paper's chances of a blur, 1 and 0.1, are twice and a fifth of SimCLR's 0.5, and so they are of the run's.
        """
        blurred = base.model_copy(update={"blur": min(1.0, 2 * base.blur)})
        solarised = base.model_copy(update={"blur": base.blur / 5, "solarise": self.config.solarise})
        return [View(blurred, size), View(solarised, size)]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over two views, each (batch, 3, size, size), each predicted from the other."""
        first, second = views
        with torch.no_grad():
            za, zb = self.teacher(first), self.teacher(second)
        student = self._student()
        qa, qb = self.predictor(student(first)), self.predictor(student(second))
        return {"loss": regression(qa, zb) + regression(qb, za)}

    def after_step(self, progress: float) -> None:
        """Move the teacher."""
        momentum = cosine_momentum(self.config.momentum, progress)
        follow(self.teacher, self._student(), momentum=momentum)

    def _student(self) -> nn.Module:
        return nn.Sequential(self.encoder, self.projector)


def regression(q: Tensor, z: Tensor) -> Tensor:
    """Squared distance of predictions from targets, both at unit length (equation 2), mean over rows.

    Args:
        q: Predictions, shape (batch, dim).
        z: The teacher's projections of the other view, shape (batch, dim); no gradient reaches them.

    Returns:
        A scalar from 0 to 4: 2 - 2 cos of the angle between the two; 0 where all have one direction, collapsed or not.

    Raises:
        ValueError: Two shapes.
    """
    if q.shape != z.shape:
        raise ValueError(f"predictions of shape {tuple(q.shape)} for targets of shape {tuple(z.shape)}")
    difference = functional.normalize(q.float(), dim=1) - functional.normalize(z.detach().float(), dim=1)
    return difference.square().sum(1).mean()
