"""Ways to learn without labels: `methods/NAME.py` is `--method NAME`.

A method file has `class Config(methods.Config)`, its settings, and `class Method(methods.Method)`, a module that
keeps the encoder and turns views into a loss. The loop owns the optimiser, precision, logging and the process group.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from roost import artifact, plugins
from roost.errors import BadSettings
from roost_training.images.data import Images
from roost_training.views.recipe import Recipe, View


class Config(BaseModel):
    """A method's settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class HeldOut:
    """Images that were not trained on, as the finished encoder serves them: unit length, shape (images, dim)."""

    embeddings: Tensor
    labels: Tensor | None
    """Their classes, int64 (images,), where the folders name some."""
    views: Callable[[], list[Tensor]]
    """Gives the embeddings of their views, made as for `forward`. It costs a pass over these images for each view."""


class Method(nn.Module):
    """An encoder with what trains it.

    A subclass defines `__init__(config, encoder, feature_dim)` and `forward(views)`, which returns a dict whose
    `loss` is a scalar to minimise; other entries are scalars to record. Where `wants_labels`, `forward` is also given
    `labels`, int64 classes of shape (batch,); where `wants_indices`, `indices`, int64 places of the batch's images
    among those that are trained on, shape (batch,). All that is random in `forward` is drawn from torch's global
    generator, which is seeded for every step.

    Args:
        encoder: Maps normalised images (batch, 3, size, size) to features (batch, feature_dim).
    """

    needs: ClassVar[type[nn.Module]] = nn.Module
    """The kind of encoder that the method can train: any, `encoders.Encoder` for its maps, or `encoders.ViT`."""
    wants_labels: bool = False
    wants_indices: bool = False
    idle_parameters: ClassVar[bool] = False
    """Whether a step may leave parameters out of the loss that others train, as a method of several phases does."""
    constant_rate: ClassVar[tuple[str, ...]] = ()
    """Modules, by attribute, whose learning rate warms up with the others but does not fall."""
    mean: artifact.Channel = (0.5, 0.5, 0.5)
    """Of pixels scaled to 0..1, by which views are normalised; the loop sets it and `std` to the images' own."""
    std: artifact.Channel = (0.29, 0.29, 0.29)
    fingerprint: str = ""
    """Of what is learnt from beside the images; `prepare` sets it, and a resumed run must have the same."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def served(self) -> nn.Module:
        """The encoder that the run scores and writes: the one that is trained, or a teacher that follows it."""
        return self.encoder

    def views(self, base: Recipe, size: int) -> list[View]:
        """The augmented copies of each image that `forward` is given, each of shape (batch, 3, size, size).

        Asked before every step, so that a method may want others later in its training.

        Args:
            base: How the run makes views.
            size: Side of the image that the encoder is trained for, in pixels.
        """
        return [View(base, size)] * 2

    def prepare(self, images: Images) -> None:
        """Make what depends on the images, such as a memory bank; called once, before the optimiser is made.

        Args:
            images: What is trained on.

        Raises:
            BadData: The method cannot learn from these.
        """

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> Iterable[nn.Parameter]:
        """Do what an epoch begins with, such as a clustering.

        Args:
            epoch: From 0.
            embed: Gives the unit-length features of every training image, shape (images, feature_dim), before any
                whitening and in the order in which they are kept. It costs a pass over the data, and nothing where it
                is not called.

        Returns:
            Parameters that were begun anew; the optimiser forgets what it knew of them.
        """
        return ()

    def pool(self, generator: np.random.Generator) -> np.ndarray | None:
        """The images of an epoch that begins, or is resumed: places of shape (n,), with repeats where wanted.

        The same number in every epoch.

        Args:
            generator: Seeded by the run and the epoch.

        Returns:
            None for every image once.
        """
        return None

    def after_step(self, progress: float) -> None:
        """Do what follows an optimiser's step, such as moving a momentum copy.

        Args:
            progress: The share of training that is done, 0 to 1.
        """

    def figures(self, embeddings: Tensor, held_out: HeldOut) -> dict[str, float]:
        """Figures of the method's own for the manifest, such as a threshold, when training is done.

        Args:
            embeddings: Of every training image, as they will be served: unit length, shape (images, dim).
            held_out: What no weight was fitted to.
        """
        return {}

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """What shows how the method sees, such as reconstructions, when training is done.

        Args:
            views: As `forward` is given them, of held-out images.

        Returns:
            By name, images of shape (n, 3, height, width), normalised as views are; they become `pictures/NAME.png`.
        """
        return {}


def names() -> list[str]:
    """The methods that there are, sorted."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> ModuleType:
    """Import one method's file.

    Raises:
        UnknownPlugin: No method has that name.
    """
    return plugins.load(sys.modules[__name__], name, kind="method")


def configure(name: str, settings: Mapping[str, Any]) -> Config:
    """Check a method's settings against its own description.

    Raises:
        UnknownPlugin: No method has that name.
        BadSettings: An unknown key, or a value out of range.
    """
    try:
        return load(name).Config(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or name
        raise BadSettings(f"Setting {key!r} of the method {name}: {first['msg']}.", key=key, method=name) from error
