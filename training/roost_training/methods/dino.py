"""DINO: predict the distribution that a slowly moving copy of the network gives an image's other crops.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, ICCV 2021, https://arxiv.org/abs/2104.14294
"""

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed, multicrop
from roost_training.blocks.heads import mlp
from roost_training.blocks.momentum import cosine_momentum, follow, teacher_of
from roost_training.blocks.prototypes import Prototypes
from roost_training.views.recipe import Probability, Recipe, View


class Config(methods.Config):
    """DINO's settings."""

    temperature: PositiveFloat = 0.1
    """The student's."""
    first_teacher_temperature: PositiveFloat = 0.04
    teacher_temperature: PositiveFloat = 0.04  # the paper: 0.07 for ViT-S, over which it is not stable
    temperature_warmup: Probability = 0.3  # the paper: the first 30 of 100 to 800 epochs
    """Share of training in which the teacher's temperature rises from the first to the last."""
    momentum: Probability = 0.99  # the paper: 0.996, for many more steps
    """The teacher's at the start; it rises to 1."""
    centre_momentum: Probability = 0.9
    prototypes: PositiveInt = 512  # the paper: 65536
    """Length of the distributions."""
    frozen: Probability = 0.01  # the paper: the first of 100 to 800 epochs
    """Share of training in which the student's last layer stays as it was drawn."""
    hidden: PositiveInt = 512  # the paper: 2048
    dim: PositiveInt = 64  # the paper: 256
    """Length of the head's bottleneck."""
    norm: bool = True  # the paper: none, to be free of it with a ViT
    """Batch norm in the head: keeps images apart from the first step on."""
    local_crops: NonNegativeInt = 4  # the paper: 6 to 10
    local_size: PositiveInt | None = None
    """Side of the local crops in pixels; half of the image's where not given."""
    split: Probability = 0.4  # the paper: 0.4 for ViT, 0.14 for ResNet-50
    """The most of an image's area that a local crop shows, and the least that a global one does."""


class Method(methods.Method):
    """Distils a teacher of global crops into a student of all crops; the teacher is served."""

    centre: Tensor
    teacher_temperature: Tensor

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.head = Head(config, feature_dim)
        self.teacher, self.teacher_head = teacher_of(encoder), teacher_of(self.head)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("teacher_temperature", torch.tensor(config.first_teacher_temperature))

    @property
    def served(self) -> nn.Module:
        """The teacher, the better of the two (section 5.2)."""
        return self.teacher

    def views(self, base: Recipe, size: int) -> list[View]:
        """Two global crops and the local ones."""
        chosen = self.config
        return multicrop.crops(base, size, local=chosen.local_crops, local_size=chosen.local_size, split=chosen.split)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over views, each (batch, 3, side, side), the two global ones first."""
        with torch.no_grad():
            features = multicrop.encode(self.teacher, views[: multicrop.GLOBAL])
            teacher = self.teacher_head(features).unflatten(0, (multicrop.GLOBAL, -1))
        student = self.head(multicrop.encode(self.encoder, views)).unflatten(0, (len(views), -1))
        loss = distillation(
            student,
            teacher,
            centre=self.centre,
            temperature=self.config.temperature,
            teacher_temperature=self.teacher_temperature,
        )
        # One row comes from each process, so that the centre is equal in all.
        mean = distributed.gather(teacher.mean((0, 1))[None]).mean(0)
        self.centre.lerp_(mean.to(self.centre), 1 - self.config.centre_momentum)
        return {"loss": loss}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher, and its temperature."""
        self.head.prototypes.after_step(progress)
        momentum = cosine_momentum(self.config.momentum, progress)
        follow(self.teacher, self.encoder, momentum=momentum)
        follow(self.teacher_head, self.head, momentum=momentum)
        first, last = self.config.first_teacher_temperature, self.config.teacher_temperature
        warmup = self.config.temperature_warmup
        self.teacher_temperature.fill_(first + (last - first) * (min(1.0, progress / warmup) if warmup else 1.0))


class Head(nn.Module):
    """Three layers, unit length, and cosines with prototypes (section 3.2)."""

    def __init__(self, config: Config, feature_dim: int) -> None:
        super().__init__()
        widths = (feature_dim, config.hidden, config.hidden, config.dim)
        self.layers = mlp(*widths, norm=config.norm, bias=True)  # ReLU, where the paper has GELU
        self.prototypes = Prototypes(config.dim, config.prototypes, frozen=config.frozen)

    def forward(self, features: Tensor) -> Tensor:
        """Scores, float32 of shape (batch, prototypes), of features (batch, feature_dim)."""
        return self.prototypes(functional.normalize(self.layers(features).float(), dim=1))


def distillation(
    student: Tensor, teacher: Tensor, *, centre: Tensor, temperature: float, teacher_temperature: Tensor | float
) -> Tensor:
    """Cross-entropy of the student's distributions with the teacher's for the other views (equation 3).

    The mean is over a process's own rows; what a process must know of the others' is in the centre.

    Args:
        student: Scores of all crops, the global ones first, shape (views, batch, prototypes).
        teacher: Scores of the global crops, shape (2, batch, prototypes); no gradient reaches them.
        centre: A moving average of the teacher's scores, shape (prototypes,), which is taken off them.
        temperature: Divides the student's scores; > 0.
        teacher_temperature: Divides the teacher's scores; > 0, which is not looked at, since the CPU would wait for a
            GPU. The less, the sharper its distributions.

    Returns:
        A scalar >= 0; log(prototypes) where all scores are equal, as in collapse.

    Raises:
        ValueError: A temperature that is not positive, or shapes that do not match.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature of {temperature}; it must be positive")
    targets = ((teacher.detach().float() - centre) / teacher_temperature).softmax(dim=2)
    return multicrop.cross_entropy(targets, student / temperature)
