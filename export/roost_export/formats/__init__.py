"""What a trained encoder is exported as: `formats/NAME.py` is `roost export --format NAME`, a module like `Format`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from torch import nn

from roost import plugins

INPUT = "image"
"""The exported model's input: uint8 (batch, size, size, 3)."""
OUTPUT = "embedding"
"""Its output: float32 (batch, dim), of unit length."""

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """What an exported model must take."""

    size: int
    """Side of the images, in pixels."""
    max_batch: int
    """The most images in one call."""
    opset: int
    """The ONNX operator set, https://onnx.ai/onnx/operators."""


class Format(Protocol):
    """What every format's module holds."""

    FILE: str
    """The file that it writes."""
    BACKEND: str
    """The Triton backend that runs it."""

    def check(self) -> None:
        """Return if this machine can write the format.

        Raises:
            MissingDependency: It cannot; the message names what is missing.
        """
        ...

    def write(self, embedder: nn.Module, path: Path, *, shape: Shape) -> None:
        """Export a module from uint8 (batch, size, size, 3) to unit-length float32 (batch, dim)."""
        ...

    def load(self, path: Path) -> Embed:
        """Run the file that `write` wrote, on pixels (batch, size, size, 3), without the module it came from."""
        ...


def names() -> list[str]:
    """The formats that there are, sorted."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> Format:
    """The format of a name.

    Raises:
        UnknownPlugin: No format has that name.
    """
    return cast(Format, plugins.load(sys.modules[__name__], name, kind="format"))
