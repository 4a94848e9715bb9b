"""Batches of pixels, read ahead of the step that needs them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from roost_training.data import Images

Batch = tuple[Tensor, Tensor | None]
"""uint8 pixels (batch, side, side, 3) and, where the images have classes, their int64 labels (batch,)."""


def stream(images: Images, order: Sequence[np.ndarray], *, device: torch.device) -> Iterator[Batch]:
    """Batches on the device, one read ahead in a thread while the last is worked on.

    Args:
        images: Where the pixels come from.
        order: Each batch's indices.
        device: Where the tensors are put.
    """

    def read(indices: np.ndarray) -> Batch:
        pixels = torch.from_numpy(images.gather(indices))
        labels = None if images.labels is None else torch.from_numpy(images.labels[indices])
        if device.type == "cuda":
            pixels = pixels.pin_memory()
        return pixels.to(device, non_blocking=True), None if labels is None else labels.to(device)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        ahead = [reader.submit(read, indices) for indices in order[:1]]
        for following in range(1, len(order) + 1):
            batch = ahead.pop().result()
            if following < len(order):
                ahead.append(reader.submit(read, order[following]))
            yield batch
