"""Ways to learn without labels: `methods/NAME.py` is `--method NAME`.

A method file has `class Config(methods.Config)`, its settings, and `class Method(methods.Method)`, a module that
keeps the encoder and turns views into a loss. The loop owns the optimiser, precision, logging and the process group.
"""

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from roost import plugins
from roost.errors import BadSettings


class Config(BaseModel):
    """A method's settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(nn.Module):
    """An encoder with what trains it.

    A subclass defines `__init__(config, encoder, feature_dim)` and `forward(views)`, which returns a dict whose
    `loss` is a scalar to minimise; other entries are scalars to record. Where `wants_labels`, it is
    `forward(views, labels)` with int64 classes, shape (batch,).

    Args:
        encoder: Maps normalised images (batch, 3, size, size) to features (batch, feature_dim).
    """

    views: ClassVar[int] = 2
    """Augmented copies of each image that `forward` is given, each of shape (batch, 3, size, size)."""
    wants_labels: ClassVar[bool] = False
    """Whether `forward` is given the images' classes as well."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> None:
        """Do what an epoch begins with, such as a clustering.

        Args:
            epoch: From 0.
            embed: Gives the unit-length features of every training image, shape (images, feature_dim), before any
                whitening and in the order in which they are kept. It costs a pass over the data, and nothing where it
                is not called.
        """

    def after_step(self, progress: float) -> None:
        """Do what follows an optimiser's step, such as moving a momentum copy.

        Args:
            progress: The share of training that is done, 0 to 1.
        """


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
