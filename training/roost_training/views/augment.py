"""Random views of a batch of images on their device, with parameters of each image's own.

The changes and their order are SimCLR's: crop and resize, flip, colour jitter, greyscale, blur (Chen, Kornblith,
Norouzi, Hinton, ICML 2020, https://arxiv.org/abs/2002.05709, appendix A), then BYOL's solarisation. One departure: the
four parts of the colour jitter come in a random order that a whole call shares, not in one for each image.
"""

import math

import torch
from torch import Tensor

from roost_training.views import colour, per_image, resample
from roost_training.views.recipe import Parameters, Recipe, draw
from roost_training.views.threads import one_thread

CHUNK_PIXELS = 128 * 32 * 32
"""On a CPU so many pixels are changed at a time, so that the planes of a chunk stay in its cache."""
PER_IMAGE_SIZE = 192
"""From this side of a view on, in pixels, a CPU is as fast with one image at a time."""


def apply(pixels: Tensor, parameters: Parameters, *, size: int) -> Tensor:
    """Make one view of each image.

    Args:
        pixels: uint8 of shape (n, height, width, 3) or (n, 3, height, width), on any device.
        parameters: Drawn for these n images and their height and width.
        size: Side of the views, in pixels.

    Returns:
        float32 in 0..1 of shape (n, 3, size, size), in channels-last memory, on the device of the pixels.

    Raises:
        ValueError: Pixels that are not uint8, of another shape, or of another number than the parameters.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or 3 not in (pixels.shape[1], pixels.shape[3]):
        raise ValueError(f"pixels are {pixels.dtype} of shape {tuple(pixels.shape)}, not uint8 (n, height, width, 3)")
    if len(pixels) != len(parameters):
        raise ValueError(f"{len(pixels)} images, but parameters for {len(parameters)}")
    channels_last = pixels if pixels.shape[3] == 3 else pixels.permute(0, 2, 3, 1)
    height, width = channels_last.shape[1:3]
    if (parameters.box[:, :2] + parameters.box[:, 2:] > torch.tensor([height, width])).any():
        raise ValueError(f"images of {height} x {width} pixels, but parameters with crops that reach beyond")
    views = torch.empty((len(pixels), size, size, 3), device=pixels.device)
    chunk = CHUNK_PIXELS // (size * size) if pixels.device.type == "cpu" else len(pixels)
    # The caller's autocast would round the views.
    with one_thread(), torch.autocast(pixels.device.type, enabled=False):
        for chosen in _grouped(parameters).split(max(chunk, 1)):
            part, rows = parameters.at(chosen), chosen.to(pixels.device)
            planes = channels_last.index_select(0, rows).permute(3, 0, 1, 2)
            planes = planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
            planes = _resample(planes, part, size=size)
            _recolour(planes, part)
            planes.clamp_(0, 1)  # rounding leaves a few 1e-7 beyond
            views.index_copy_(0, rows, planes.permute(1, 2, 3, 0).contiguous())
    return views.permute(0, 3, 1, 2)


def augment(pixels: Tensor, recipe: Recipe, *, size: int, generator: torch.Generator) -> Tensor:
    """Draw parameters for a batch and apply them: in batch, or large views on a CPU one image at a time."""
    height, width = pixels.shape[1:3] if pixels.shape[3] == 3 else pixels.shape[2:]
    parameters = draw(len(pixels), recipe, height=height, width=width, generator=generator)
    if size >= PER_IMAGE_SIZE and per_image.suits(pixels, parameters):
        return per_image.apply(pixels, parameters, size=size)
    return apply(pixels, parameters, size=size)


def normalise(views: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """Subtract `mean` and divide by `std`, both of three numbers, in place, and return the views.

    Args:
        views: float32 of shape (n, 3, size, size), in channels-last memory.
        mean: Of the colours.
        std: Likewise.
    """
    height, width = views.shape[2:]
    # A loop over three colours at a time would take nine times as long.
    rows = views.permute(0, 2, 3, 1).view(len(views), height, width * 3)
    rows.sub_(mean.flatten().repeat(width)).div_(std.flatten().repeat(width))
    return views


def _grouped(parameters: Parameters) -> Tensor:
    """An order in which the jittered images are a prefix and the blurred ones a slice, so that none need copying."""
    blurred = (parameters.sigma > 0).int()
    return torch.where(parameters.jitter, blurred, 3 - blurred).argsort(stable=True)


def _resample(planes: Tensor, parameters: Parameters, *, size: int) -> Tensor:
    """Crop, resize, flip, turn and slant in one resampling: (3, n, height, width) to (3, n, size, size)."""
    height, width = planes.shape[2:]
    top, left, h, w = parameters.box.to(planes.device).T
    flip_rows, flip_columns = parameters.flip.to(planes.device).T
    if parameters.affine.any():
        shrink = (parameters.box[:, 2:] / size).max().item()
        supersample = min(math.ceil(shrink), resample.MAX_SUPERSAMPLE)
        views = resample.warp(
            planes, _theta(parameters, height, width).to(planes.device), size=size, supersample=supersample
        )
    else:
        rows = resample.axis_weights(start=top, length=h, flip=flip_rows, source=height, size=size)
        columns = resample.axis_weights(start=left, length=w, flip=flip_columns, source=width, size=size)
        views = resample.separable(planes, rows, columns)
    turned = parameters.transpose.nonzero()[:, 0].to(planes.device)
    if len(turned):
        views[:, turned] = views[:, turned].mT
    return views


def _recolour(planes: Tensor, parameters: Parameters) -> None:
    """Jitter, grey, blur and solarise in place."""
    device = planes.device
    jittered = planes[:, : int(parameters.jitter.sum())]
    factors = parameters.factors[parameters.jitter]
    for change in parameters.order:
        if (factors[:, change] != colour.NEUTRAL[change]).any():
            colour.CHANGES[change](jittered, factors[:, change].to(device))
    grey = parameters.grey.nonzero()[:, 0].to(device)
    if len(grey):
        planes[:, grey] = colour.luma(planes[:, grey])
    blurred = parameters.sigma.nonzero()[:, 0]
    if len(blurred):
        slice_ = planes[:, blurred[0] : blurred[-1] + 1]
        weights = resample.blur_weights(parameters.sigma[blurred].to(device), planes.shape[-1])
        slice_.copy_(resample.separable(slice_, weights, weights))
    solarised = (parameters.threshold <= 1).nonzero()[:, 0].to(device)
    if len(solarised):
        some = planes[:, solarised]
        colour.solarise(some, parameters.threshold.to(device)[solarised])
        planes[:, solarised] = some


def _theta(parameters: Parameters, height: int, width: int) -> Tensor:
    """Maps of a view's coordinates to the image's, both -1..1 as (x, y): float32 of shape (n, 2, 3)."""
    top, left, h, w = parameters.box.T
    rotation, shear, down, right = parameters.affine.T
    angle, slant = rotation.deg2rad(), shear.deg2rad().tan()
    mirror = 1 - 2 * parameters.flip.float()
    # Half the crop, in pixels, is what a view's coordinate of 1 is away from its centre.
    x, y = mirror[:, 1] * w / 2, mirror[:, 0] * h / 2
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([cos * x, (cos * slant - sin) * y, sin * x, (sin * slant + cos) * y], dim=1).view(-1, 2, 2)
    shift = torch.stack([-right * w, -down * h], dim=1)
    turn = torch.stack([cos, cos * slant - sin, sin, sin * slant + cos], dim=1).view(-1, 2, 2)
    centre = torch.stack([left + w / 2, top + h / 2], dim=1) + (turn @ shift[:, :, None])[:, :, 0]
    half = torch.tensor([width, height]) / 2
    return torch.cat([matrix / half[:, None], (centre / half - 1)[:, :, None]], dim=2)
