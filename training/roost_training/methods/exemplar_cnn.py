"""Exemplar-CNN: tell seed patches from each other, however they are moved, turned, scaled and coloured.

Dosovitskiy, Fischer, Springenberg, Riedmiller, Brox, TPAMI 2016, https://arxiv.org/abs/1406.6909
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import exemplars
from roost_training.images.data import Images
from roost_training.views import resample
from roost_training.views.recipe import Recipe, View

LEAST_BLUR = 0.1
"""In pixels, which changes nothing to be seen."""
CHUNK = 500


class Config(methods.Config):
    """Exemplar-CNN's settings."""

    classes: PositiveInt = 8000
    """Seed patches, each of another image and each a class; every image where there are fewer."""
    zoom: PositiveInt = 2  # the paper: 3, patches of 32 pixels from images of 96, and scales near that
    """A seed patch covers at least this part of the image's side: 1 / zoom."""
    rotation_degrees: float = Field(default=20.0, ge=0, le=180)
    """Patches are turned by up to this, either way; 180 for images without an upright."""
    colour_strength: NonNegativeFloat = 1.0
    """What the paper's changes of colour are multiplied by: less where images are told by their colours."""
    blur: NonNegativeFloat = 0.0
    """Patches are blurred by up to this, in pixels: 0 as in the paper, more for descriptors that a blur leaves alone
    (Fischer, Dosovitskiy, Brox, 2014, https://arxiv.org/abs/1405.5769)."""


class Method(methods.Method):
    """Classifies transformed seed patches into as many classes as there are seeds."""

    wants_indices = True
    seeds: Tensor
    """Places of the images that have a seed, int64 (classes,), ascending."""
    boxes: Tensor
    """Where each seed lies in its image; see `blocks.exemplars`."""
    components: Tensor
    """Principal components of the images' colours, one a column, shape (3, 3)."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.feature_dim = feature_dim

    def views(self, base: Recipe, size: int) -> list[View]:
        """The whole image, so large that the smallest seed has the encoder's size; `forward` cuts and changes it.

        Of the run's recipe nothing is taken: the changes are the paper's.
        """
        whole = Recipe(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), horizontal_flip=0.0).true_colours()
        return [View(whole, size * self.config.zoom)]

    def prepare(self, images: Images) -> None:
        """Choose the seeds, where gradients are strong, and make the classifier."""
        seeds = torch.randperm(len(images))[: self.config.classes].sort().values
        boxes, scatter, mean = [], torch.zeros(3, 3), torch.tensor(self.mean)
        for part in seeds.split(CHUNK):
            planes = torch.from_numpy(images.gather(part.numpy())).permute(3, 0, 1, 2) / 255
            boxes.append(exemplars.draw_seeds(planes, smallest=1 / self.config.zoom))
            colours = planes.flatten(1) - mean[:, None]
            scatter += colours @ colours.T
        self.register_buffer("seeds", seeds)
        self.register_buffer("boxes", torch.cat(boxes))
        self.register_buffer("components", torch.linalg.eigh(scatter).eigenvectors)
        self.classifier = nn.Linear(self.feature_dim, len(seeds))

    def pool(self, generator: np.random.Generator) -> np.ndarray:
        """The images that have a seed."""
        return self.seeds.cpu().numpy()

    def forward(self, views: Sequence[Tensor], indices: Tensor) -> dict[str, Tensor]:
        """The loss over whole images (batch, 3, side, side) at `indices`, and the share that is told right."""
        (view,) = views
        classes = torch.searchsorted(self.seeds, indices)
        logits = self.classifier(self.encoder(self._samples(view, self.boxes[classes]))).float()
        accuracy = (logits.argmax(1) == classes).float().mean()
        return {"loss": functional.cross_entropy(logits, classes), "accuracy": accuracy}

    @torch.no_grad()
    def _samples(self, view: Tensor, boxes: Tensor) -> Tensor:
        """A sample of each image's class, shape (batch, 3, size, size)."""
        view = view.float()  # mixed precision hands views over in bf16
        mean, std = view.new_tensor(self.mean), view.new_tensor(self.std)
        size = view.shape[3] // self.config.zoom
        with torch.autocast(view.device.type, enabled=False):
            planes = view.transpose(0, 1) * std[:, None, None, None] + mean[:, None, None, None]
            changes = exemplars.draw_changes(
                len(boxes),
                rotation_degrees=self.config.rotation_degrees,
                colour_strength=self.config.colour_strength,
                device=view.device,
            )
            patches = exemplars.cut(planes, boxes, changes, size=size)
            patches = exemplars.recolour(patches, changes, mean=mean, components=self.components)
            if self.config.blur:
                sigma = (self.config.blur * torch.rand(len(boxes), device=view.device)).clamp_(min=LEAST_BLUR)
                weights = resample.blur_weights(sigma, size)
                patches = resample.separable(patches, weights, weights)
        patches = (patches - mean[:, None, None, None]) / std[:, None, None, None]
        return patches.transpose(0, 1).contiguous(memory_format=torch.channels_last)
