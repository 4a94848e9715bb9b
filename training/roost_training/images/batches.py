"""Batches of pixels, read ahead of the step that needs them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from roost_training.images.data import Images


@dataclass(frozen=True)
class Batch:
    """Some of the images, on the device."""

    pixels: Tensor
    """uint8 (batch, side, side, 3)."""
    indices: Tensor
    """Their places among the images, int64 (batch,)."""
    labels: Tensor | None
    """Their classes, int64 (batch,), where the images have some."""


def take(images: Images, indices: np.ndarray, *, device: torch.device) -> Batch:
    """Some of the images, on the device.

    Args:
        images: Where the pixels come from.
        indices: Which, int64 (batch,).
        device: Where the tensors are put.
    """
    pixels = torch.from_numpy(images.gather(indices))
    labels = None if images.labels is None else torch.from_numpy(images.labels[indices]).to(device)
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    return Batch(pixels.to(device, non_blocking=True), torch.from_numpy(indices).to(device), labels)


def stream(images: Images, order: Sequence[np.ndarray], *, device: torch.device) -> Iterator[Batch]:
    """Batches on the device, one read ahead in a thread while the last is worked on.

    Args:
        images: Where the pixels come from.
        order: Each batch's indices.
        device: Where the tensors are put.
    """
    read = partial(take, images, device=device)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        ahead = [reader.submit(read, indices) for indices in order[:1]]
        for following in range(1, len(order) + 1):
            batch = ahead.pop().result()
            if following < len(order):
                ahead.append(reader.submit(read, order[following]))
            yield batch
