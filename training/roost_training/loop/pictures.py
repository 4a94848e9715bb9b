"""What a method drew, as PNG files of the run folder."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

from roost import artifact

FOLDER = "pictures"
IMAGES = 32
"""Held-out images that a method is given to draw."""
COLUMNS = 8


def write(folder: Path, drawn: Mapping[str, Tensor], *, mean: artifact.Channel, std: artifact.Channel) -> None:
    """Write each set of images as one grid, `pictures/NAME.png`.

    Args:
        folder: The run's.
        drawn: By name, images of shape (n, 3, height, width), normalised as the encoder's are.
        mean: Of the normalisation.
        std: Likewise.
    """
    for name, images in drawn.items():
        (folder / FOLDER).mkdir(exist_ok=True)
        pixels = images.detach().float().cpu() * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
        stream = io.BytesIO()
        save_image(pixels.clamp(0, 1), stream, format="png", nrow=COLUMNS)
        artifact.replace_bytes(folder / FOLDER / f"{name}.png", stream.getvalue())
