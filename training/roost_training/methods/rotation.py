"""Rotation: turn each image by 0, 90, 180 and 270 degrees, and say by how much.

Gidaris, Singh and Komodakis, ICLR 2018, https://arxiv.org/abs/1803.07728. It needs images with an upright: seen from
above, they look the same turned, and all there is to learn is which way the shadows fall.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.views.recipe import Recipe, View

TURNS = 4


class Config(methods.Config):
    """Rotation has no settings."""


class Method(methods.Method):
    """Classifies by how many quarters of a circle an image was turned."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.classifier = nn.Linear(feature_dim, TURNS)

    def views(self, base: Recipe, size: int) -> list[View]:
        """One upright view: the run's, without its turns and its upside-down flips."""
        upright = {"quarter_turn": 0.0, "vertical_flip": 0.0, "rotation_degrees": 0.0}
        return [View(base.model_copy(update=upright), size)]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over one view (batch, 3, size, size), which passes the encoder in all four turns."""
        logits = self.classifier(self.encoder(four_turns(views[0])))
        turns = torch.arange(TURNS, device=logits.device).repeat_interleave(len(views[0]))
        return {
            "loss": functional.cross_entropy(logits.float(), turns),
            "accuracy": (logits.argmax(1) == turns).float().mean(),
        }

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Each image in one of the turns, and turned back by what the classifier says."""
        turned = [torch.rot90(image, k % TURNS, (1, 2)) for k, image in enumerate(views[0])]
        found = self.classifier(self.encoder(torch.stack(turned))).argmax(1)
        righted = [torch.rot90(image, -int(k), (1, 2)) for image, k in zip(turned, found, strict=True)]
        return {"turned": torch.stack(turned), "righted": torch.stack(righted)}


def four_turns(images: Tensor) -> Tensor:
    """Square images (n, channels, size, size) turned by 0, 1, 2 and 3 quarters counter-clockwise, (4n, ...)."""
    return torch.cat([torch.rot90(images, quarters, (2, 3)) for quarters in range(TURNS)])
