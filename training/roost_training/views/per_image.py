"""Random views made one image at a time, in bytes: for large images on a CPU, where batches of floats gain nothing.

What is done to an image, and in which order, is `augment.apply`'s, by the same parameters; Pillow does it, in a thread
for each core. Results differ by rounding to bytes after every change, by Pillow's hue of 256 steps, and by its blur,
which approximates the Gaussian by three boxes.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from roost_training.views import colour
from roost_training.views.recipe import Parameters

TURNS = {  # (flip rows, flip columns, transpose afterwards)
    (True, False, False): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (True, True, False): Image.Transpose.ROTATE_180,
    (False, False, True): Image.Transpose.TRANSPOSE,
    (True, False, True): Image.Transpose.ROTATE_270,
    (False, True, True): Image.Transpose.ROTATE_90,
    (True, True, True): Image.Transpose.TRANSVERSE,
}
LEVELS = np.arange(256, dtype=np.float32)


def suits(pixels: Tensor, parameters: Parameters) -> bool:
    """Whether these views can be made here: bytes on a CPU, channels last, none turned by odd angles or slanted."""
    return pixels.device.type == "cpu" and pixels.shape[3] == 3 and not parameters.affine.any()


def apply(pixels: Tensor, parameters: Parameters, *, size: int) -> Tensor:
    """Make one view of each image.

    Args:
        pixels: uint8 of shape (n, height, width, 3), on the CPU.
        parameters: Drawn for these n images and their height and width, without `affine`.
        size: Side of the views, in pixels.

    Returns:
        float32 in 0..1 of shape (n, 3, size, size), in channels-last memory.
    """
    columns = {field.name: getattr(parameters, field.name) for field in fields(parameters) if field.name != "order"}
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    each = [dict(zip(columns, row, strict=True)) for row in values]
    make = partial(_view, order=parameters.order, size=size)
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="views") as workers:
        views = np.stack(list(workers.map(make, pixels.numpy(), each)))
    return torch.from_numpy(views).permute(0, 3, 1, 2).float().div_(255)


def _view(pixels: np.ndarray, drawn: dict[str, Any], *, order: tuple[int, ...], size: int) -> np.ndarray:
    top, left, height, width = drawn["box"]
    image = Image.fromarray(pixels).crop((left, top, left + width, top + height))  # resize(box=…) looks beyond it
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    turn = TURNS.get((*drawn["flip"], drawn["transpose"]))
    if turn is not None:
        image = image.transpose(turn)
    if drawn["jitter"]:
        for change in order:
            if drawn["factors"][change] != colour.NEUTRAL[change]:
                image = CHANGES[change](image, drawn["factors"][change])
    if drawn["grey"]:
        image = image.convert("L").convert("RGB")
    if drawn["sigma"] > 0:
        image = image.filter(ImageFilter.GaussianBlur(drawn["sigma"]))
    if math.isfinite(drawn["threshold"]):
        image = _mapped(image, np.where(drawn["threshold"] * 255 <= LEVELS, 255 - LEVELS, LEVELS))
    return np.asarray(image)


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    return _mapped(image, LEVELS * factor)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    mean = np.dot(image.convert("L").histogram(), LEVELS) / (image.width * image.height)
    return _mapped(image, mean + (LEVELS - mean) * factor)


def _saturation(image: Image.Image, factor: float) -> Image.Image:
    return Image.blend(image.convert("L").convert("RGB"), image, factor)


def _hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = ImageChops.add_modulo(hue, Image.new("L", hue.size, round(turns * 256) % 256))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _mapped(image: Image.Image, levels: np.ndarray) -> Image.Image:
    """Each byte replaced by its entry of `levels`, rounded and cut off."""
    return image.point(levels.round().clip(0, 255).astype(int).tolist() * 3)


CHANGES = (_brightness, _contrast, _saturation, _hue)
"""In the order of `colour.CHANGES`."""
